"""Models whose kernels are in codes give what they give with the values of these."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxssl.core.names import flatten, join, split, unflatten
from jaxssl.generate.engine import apart
from jaxssl.models.adapters import Attached
from jaxssl.models.bart import BartConfig
from jaxssl.models.llama import LlamaConfig
from jaxssl.models.model import Model
from jaxssl.models.t5 import T5Config
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.ops.codes import Coded, decode, encode
from jaxssl.program.coded import block_axis, is_codable
from jaxssl.transfer.peft.bottleneck import Bottleneck
from jaxssl.transfer.peft.compacter import Compacter
from jaxssl.transfer.peft.ia3 import Ia3
from jaxssl.transfer.peft.lora import Lora
from jaxssl.transfer.peft.prefix import Prefix

BATCH = tiny.rows([[x] for x in tiny.random_documents([9, 6])], length=9)
SILENT = dict(dropout=0.0, attention_dropout=0.0, feed_forward_dropout=0.0)
FAMILIES = {
    "bert": tiny.bert(),
    "bert, nothing kept": tiny.bert(remat="full"),
    "gpt2": tiny.gpt2(),
    "gpt2, unrolled": tiny.gpt2(unroll=True),
    "llama": LlamaConfig(**tiny.SHAPE, max_positions=32, num_kv_heads=1),
    "t5": T5Config(**tiny.SHAPE, max_positions=32, **SILENT),
    "bart": BartConfig(**tiny.SHAPE, max_positions=32, **SILENT),
}
METHODS = {
    "lora": Lora(targets=("all-linear",), rank=2),
    "dora": Lora(targets=("all-linear",), rank=2, magnitude=True),
    "ia3": Ia3(),
    "bottleneck": Bottleneck(reduction=4),
    "compacter": Compacter(),
    "prefix": Prefix(length=3),
}


def coded(model, form="nf4"):
    """(parameters with kernels in codes, the same with the values of the codes)."""
    boxed, flat = flatten(model.abstract()), flatten(tiny.random_params(model))
    held = {
        path: encode(jnp.asarray(x), form, block_axis(boxed[path])) if is_codable(path) else x
        for path, x in flat.items()
    }
    assert any(isinstance(x, Coded) for x in held.values())
    values = {path: decode(x) if isinstance(x, Coded) else x for path, x in held.items()}
    return unflatten(held), unflatten(values)


def states(model, params):
    """Hidden states, of both sides where there are two."""
    if not model.config.encoder_decoder:
        return model.encode(params, BATCH)
    return model.write(params, BATCH, model.memory(params, BATCH))


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_and_gradients_of_what_is_trained_are_the_same(family):
    model = Model(FAMILIES[family], adapters=(Attached("own", METHODS["lora"]),))
    made = []
    for params in coded(model):
        trained, frozen = split(params, lambda path: path.startswith("adapters/"))

        def loss(trained, frozen):
            return jnp.sum(jnp.sin(states(model, join(trained, frozen))))

        made.append(jax.jit(jax.value_and_grad(loss))(trained, frozen))
    np.testing.assert_allclose(made[0][0], made[1][0], rtol=1e-6)
    errors = tiny.relative_l2(made[0][1], made[1][1])
    assert max(errors.values()) < 3e-6, errors


@pytest.mark.parametrize("method", METHODS)
def test_every_method_reads_what_it_needs_of_a_kernel(method):
    model = Model(tiny.bert(), adapters=(Attached("own", METHODS[method]),))
    held, values = coded(model, "int8")
    encode_it = jax.jit(model.encode)
    np.testing.assert_allclose(encode_it(held, BATCH), encode_it(values, BATCH), rtol=0, atol=3e-6)


def test_layers_by_themselves_write_with_a_cache_what_the_whole_stack_reads():
    model = Model(tiny.gpt2(), CausalLm().heads)
    batch = tiny.rows([[x] for x in tiny.random_documents([9, 9])])  # a cache takes no padding
    held, values = coded(model)
    alone, parts = apart(model, held)
    in_codes = [path for path, x in flatten(parts).items() if isinstance(x, Coded)]
    assert len(in_codes) == 12 and all(is_codable(path) for path in in_codes)
    hidden, _ = jax.jit(alone.decode)(parts, batch, alone.fresh_cache(parts, 2, 9))
    made = alone.head(parts, "causal_lm", hidden)
    wanted = model.head(values, "causal_lm", jax.jit(model.encode)(values, batch))
    np.testing.assert_allclose(made, wanted, rtol=0, atol=3e-6)

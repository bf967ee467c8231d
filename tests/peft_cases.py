"""Small models of `transformers`, read here, and what each makes of the same rows."""

import functools

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference is peft on torch")
pytest.importorskip("peft", reason="the reference is peft on torch")

import transformers  # noqa: E402

from jaxssl.checkpoint.hf.directory import open_model  # noqa: E402
from jaxssl.core.layer_names import ADAPTERS  # noqa: E402
from jaxssl.core.names import flatten, unflatten  # noqa: E402
from jaxssl.models.layer_context import Memory  # noqa: E402
from jaxssl.models.layers import unbox  # noqa: E402
from jaxssl.transfer.peft.files import write_adapter  # noqa: E402
from jaxssl.transfer.peft.merge import by_module  # noqa: E402

V, LENGTH = 41, 11
COMMON = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
LLAMA = dict(
    vocab_size=V,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=40,
    max_position_embeddings=32,
)
BERT = dict(
    vocab_size=V,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=34,
)
T5 = dict(vocab_size=V, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=3)
BART = dict(
    vocab_size=V,
    d_model=24,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=3,
    decoder_attention_heads=3,
    encoder_ffn_dim=40,
    decoder_ffn_dim=40,
    max_position_embeddings=32,
)
CASES = {
    "bert": ("Bert", "Model", BERT),
    "roberta": ("Roberta", "Model", BERT),
    "modernbert": ("ModernBert", "Model", {**BERT, "global_attn_every_n_layers": 2}),
    "gpt2": ("GPT2", "LMHeadModel", dict(vocab_size=V, n_embd=24, n_layer=2, n_head=3, n_inner=40)),
    "llama": ("Llama", "ForCausalLM", LLAMA),
    "qwen2": ("Qwen2", "ForCausalLM", LLAMA),
    "qwen3": ("Qwen3", "ForCausalLM", {**LLAMA, "head_dim": 8}),
    "t5": ("T5", "ForConditionalGeneration", {**T5, "decoder_start_token_id": 0}),
    "mt5": ("MT5", "ForConditionalGeneration", {**T5, "decoder_start_token_id": 0}),
    "bart": ("Bart", "ForConditionalGeneration", {**BART, "decoder_start_token_id": 2}),
}
MORE = {
    "electra": ("Electra", "Model", {**BERT, "embedding_size": 16}),
    "distilbert": (
        "DistilBert",
        "Model",
        dict(
            vocab_size=V, dim=24, n_layers=2, n_heads=3, hidden_dim=40, max_position_embeddings=34
        ),
    ),
    "mistral": ("Mistral", "ForCausalLM", {**LLAMA, "sliding_window": None}),
    "mbart": (
        "MBart",
        "ForConditionalGeneration",
        {**BART, "decoder_start_token_id": 2, "scale_embedding": True, "decoder_layers": 3},
    ),
    "yarn": (
        "Llama",
        "ForCausalLM",
        {
            **LLAMA,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 2.0,
                "original_max_position_embeddings": 16,
                "rope_theta": 100.0,
            },
        },
    ),
    "windows": ("Mistral", "ForCausalLM", {**LLAMA, "sliding_window": 4}),
    "masked": ("Bert", "ForMaskedLM", BERT),
    "tags": ("Roberta", "ForTokenClassification", BERT),
    "t5 encoder": ("T5", "EncoderModel", T5),
    "t5 tags": ("T5", "ForTokenClassification", T5),  # with a prefix that no other of T5's has
    "rows": ("Bert", "ForSequenceClassification", BERT),
    "spans": ("Bert", "ForQuestionAnswering", BERT),
    "causal rows": (
        "GPT2",
        "ForSequenceClassification",
        dict(vocab_size=V, n_embd=24, n_layer=2, n_head=3, n_inner=40),
    ),
    "llama rows": ("Llama", "ForSequenceClassification", LLAMA),
}
"""Further classes, for what differs from family to family and from head to head."""


@functools.cache
def case_of(case, root):
    """(torch model, its directory, ours, parameters, the class's name)."""
    family, ending, shape = {**CASES, **MORE}[case]
    config = getattr(transformers, f"{family}Config")(**shape, **COMMON)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    reference = getattr(transformers, f"{family}{ending}")(config).eval()
    scale = (
        0.1 if "T5" in family else 0.3
    )  # its scores are not divided: larger ones amplify rounding
    for p in reference.parameters():
        p.data = p.data + scale * torch.randn(p.shape)
    reference.save_pretrained(root / case)
    found = open_model(root / case)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)
    shapes = flatten(unbox(found.model.abstract()))
    params = {name: np.asarray(found.read(name, wanted(x))) for name, x in shapes.items()}
    return root / case, found.model, unflatten(params), f"{family}{ending}"


def hidden(model, params):
    """The hidden states of the model's last stack for one row, and the ids it was given."""
    ids = np.random.default_rng(5).integers(3, V, (2, LENGTH)).astype(np.int32)
    one = np.ones_like(ids)
    places = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), ids.shape)
    batch = {"tokens": ids, "segment_ids": one, "positions": places}
    states = jax.jit(model.encode)(params, batch)
    if model.config.encoder_decoder:
        states = jax.jit(model.write)(params, batch, Memory(states, one))
    return np.asarray(states), torch.tensor(ids).long()


def theirs(wrapped, ids, is_two_sided):
    """The same of a model on torch."""
    more = {"decoder_input_ids": ids} if is_two_sided else {}
    with torch.no_grad():
        out = wrapped(input_ids=ids, output_hidden_states=True, **more)
    last = out.decoder_hidden_states if is_two_sided else out.hidden_states
    return last[-1].numpy()


TASK_HEADS = ("row", "token", "span")


def written(place, model, params, name, out, base=None):
    """An adapter's files, with the head of a task."""
    out.mkdir(exist_ok=True)
    flat = flatten(params)
    added = jax.tree.map(np.asarray, params[ADAPTERS])
    heads = {head.name: head.name for head in model.heads}
    write_adapter(
        out,
        model.adapters[0].method,
        by_module(added, model.adapters)["own"],
        {path: x for path, x in flat.items() if path.split("/")[0] in TASK_HEADS},
        shapes={path: np.shape(x) for path, x in flat.items()},
        config=model.config,
        heads=heads,
        architecture=name,
        base=base,
        biases={path: x for path, x in flat.items() if path.endswith("/bias")},
    )
    return out

"""Which frozen parameters are held in codes, and how these lie on a mesh."""

import re

import jax
import jax.numpy as jnp
import pytest
import tiny
from jax.sharding import PartitionSpec as P

from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten, join, split, unflatten
from jaxssl.models.adapters import Attached
from jaxssl.models.heads import MASKED_LM
from jaxssl.models.model import Model
from jaxssl.parallel.mesh import batch_sharding
from jaxssl.parallel.rules import make_rules, use_layout, use_mesh
from jaxssl.program.coded import abstract_codes, block_axis, is_codable
from jaxssl.program.state import abstract_params, laid_out
from jaxssl.transfer.peft.lora import Lora

LAYER = "encoder/layers"
OUTPUT = P(None, "tensor", None, "fsdp")


def boxed(mesh=None, **shape):
    """The kernels of a BERT, with their axes."""
    with use_mesh(mesh or tiny.mesh()):
        leaves = flatten(abstract_params(Model(tiny.bert(**shape), (MASKED_LM,))))
    return {path: x for path, x in leaves.items() if is_codable(path)}


def test_they_are_the_kernels_of_layers():
    names = {path.removeprefix(f"{LAYER}/").removesuffix("/kernel") for path in boxed()}
    attention = {f"attention/{name}" for name in ("query", "key", "value", "output")}
    assert names == attention | {"feed_forward/up", "feed_forward/down"}
    assert not is_codable("pooler/kernel") and not is_codable(f"{LAYER}/attention_norm/scale")


def test_blocks_lie_along_the_axis_with_the_largest_rather_one_that_is_not_split():
    kernels = boxed(hidden_size=128, num_heads=2, intermediate_size=256)
    axes = {path.split("/")[-2]: block_axis(x) for path, x in kernels.items()}
    # [layers, embed, heads, head_dim], [layers, heads, head_dim, embed], [layers, mlp, embed]
    assert axes == {"query": 1, "key": 1, "value": 1, "output": 2, "up": 1, "down": 2}


@pytest.mark.parametrize(
    ("sizes", "kernel", "codes", "scale"),
    [
        ((1, 4, 2), "feed_forward/up", P(None, "fsdp", "tensor"), P(None, "fsdp", "tensor")),
        ((1, 8, 1), "feed_forward/up", P(None, "fsdp", "tensor"), P(None, None, "tensor")),
        (
            (1, 4, 2),
            "attention/output",
            P(None, "tensor", None, "fsdp"),
            P(None, "tensor", None, "fsdp"),
        ),
    ],
)
def test_they_are_split_as_the_kernel_and_scales_where_they_divide(sizes, kernel, codes, scale):
    mesh = tiny.mesh(*sizes)
    kernels = boxed(mesh, hidden_size=256, num_heads=4, intermediate_size=256)
    path = f"{LAYER}/{kernel}/kernel"
    with use_mesh(mesh):
        made = abstract_codes({path: kernels[path]}, "nf4", mesh)
    held = flatten(made)[path]
    assert held.codes.dtype == jnp.uint4 and held.shape == kernels[path].value.shape
    for x, spec in ((held.codes, codes), (held.scale, scale)):
        wanted = jax.sharding.NamedSharding(mesh, spec)
        assert x.sharding.is_equivalent_to(wanted, len(x.shape)), (x.sharding.spec, spec)


def test_narrow_kernels_are_refused():
    kernels = boxed(hidden_size=24, num_heads=3, intermediate_size=40)
    with pytest.raises(UserError, match="too small blocks"):
        abstract_codes(kernels, "int8", tiny.mesh())


@pytest.mark.parametrize(("form", "kept"), [("int8", "s8"), ("nf4", "u8|u4")])
def test_devices_send_codes_and_not_their_values(form, kept):
    """Forward and, computed again, backward; a CPU takes codes of 4 bits apart."""
    lora = Attached("own", Lora(rank=2, targets=("all-linear",)))
    model = Model(
        tiny.bert(hidden_size=128, intermediate_size=256, remat="full"),
        (MASKED_LM,),
        adapters=(lora,),
    )
    mesh, batch = tiny.mesh(fsdp=8), tiny.rows([[x] for x in tiny.random_documents([8] * 8)])
    with use_layout(mesh, make_rules({})):
        leaves = abstract_params(model)
        kernels, _ = split(leaves, is_codable)
        held = {**flatten(laid_out(leaves, mesh)), **flatten(abstract_codes(kernels, form, mesh))}
        trained, frozen = split(unflatten(held), lambda path: path.startswith("adapters/"))

        def loss(trained, frozen, batch):
            return jnp.sum(jnp.sin(model.encode(join(trained, frozen), batch)))

        rows = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh))
            for name, x in batch.items()
        }
        text = jax.jit(jax.grad(loss)).lower(trained, frozen, rows).compile().as_text()
    sent = re.findall(r"= (\w+)\[([\d,]*)\]\S* all-gather\(", str(text))
    kernels = {x.value.shape[1:] for x in flatten(kernels).values()}
    found = [(kind, tuple(map(int, shape.split(",")))) for kind, shape in sent]
    whole = [kind for kind, shape in found if shape in kernels or shape[1:] in kernels]
    assert len(whole) >= 6 and all(re.fullmatch(kept, kind) for kind in whole), found

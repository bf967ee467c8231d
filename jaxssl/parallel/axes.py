"""The one table from a model's logical axes to the mesh's axes.

Models name axes (`embed`, `heads`, ...) and know no mesh. Change how a model is laid out here.
"""

import jax
from jax.sharding import PartitionSpec

RULES: dict[str | None, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "microbatch": None,
    "sequence": None,
    "embed": "fsdp",
    "activation": None,
    "heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "vocab": "tensor",
    "positions": None,
    "layers": None,
    "norm": None,
    None: None,
}


def to_spec(names: tuple[str | None, ...]) -> PartitionSpec:
    """Logical axis names as a PartitionSpec; an unknown name is a KeyError."""
    return PartitionSpec(*(RULES[name] for name in names))


def constrain(x: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
    """`x` laid out over the current mesh by its logical axes; unchanged where no mesh is set."""
    spec = to_spec(names)
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec)

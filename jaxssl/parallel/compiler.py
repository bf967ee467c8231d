"""Options of the XLA compiler that a kind of chip gets, each of them optional."""

from collections.abc import Mapping

import jax
from jax.sharding import Mesh

Value = str | int | float | bool
Options = tuple[tuple[str, Value], ...]
TPU: Mapping[str, Value] = {
    # Products whose operand is gathered are else cut into as many as there are shards, which sends
    # each in turn: 14,256 messages a step of BERT-large on 16 v5e chips under fsdp.
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000,
}
ROOMY: Mapping[str, Value] = {
    **TPU,
    # Of the 128 MiB of fast memory, a fusion may use 96 rather than 16: fewer reads of operands.
    "xla_tpu_scoped_vmem_limit_kib": 98304,
}
OF_KIND: Mapping[str, Mapping[str, Value]] = {
    "TPU v4": TPU,
    "TPU v5": ROOMY,
    "TPU v5p": ROOMY,
    "TPU v5 lite": ROOMY,
    "TPU v5e": ROOMY,
    "TPU v6 lite": ROOMY,
    "TPU v6e": ROOMY,
}
"""By `device_kind`."""
THROUGH_FROZEN: Mapping[str, Mapping[str, Value]] = {
    # No fusing of products with what is around them. Where no bias is trained, jaxlib 0.10.2 makes
    # one fusion of a feed-forward layer's whole backward pass, and the constants of its activation
    # are written to memory as arrays, 16 MiB each for 32 x 128 x 1,024, and read again.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": ""},
}
"""Besides, where gradients go through layers of which nothing is trained, as to adapters."""
LOOKED_AT = (0, 13)
"""The version of JAX before which these names are known: one that a compiler does not know is an
error."""


def compiler_options(
    mesh: Mesh, changes: Mapping[str, Value | None] = {}, *, through_frozen: bool = False
) -> Options:
    """The options of steps on this mesh.

    Args:
      changes: over those of the chip; None leaves one out.
      through_frozen: whether gradients go through layers of which nothing is trained.
    """
    kind = mesh.devices.flat[0].device_kind
    is_known = jax.__version_info__ < LOOKED_AT
    beside = THROUGH_FROZEN.get(kind, {}) if through_frozen and is_known else {}
    made = {**OF_KIND.get(kind, {}), **beside, **changes}
    return tuple((name, value) for name, value in made.items() if value is not None)

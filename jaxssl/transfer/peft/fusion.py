"""Several narrow layers at one place, which all read the same: summed, or attended over.

Stacked in sequence, each bottleneck reads what those before it gave. Here each reads the sublayer's
own output h (or its input, beside it), and gives f_i. `sum` adds all of them, each by its weight.
AdapterFusion (Pfeiffer et al., 2021) learns for each token which of them to take:
h + V sum over i of p_i f_i, with p = softmax over i of (Q h + b) . (K f_i), where V begins as the
identity. It is trained alone, over adapters that were trained before.

A bias of K would add the same to all scores, and there is none. To the loss is added c |V - I|^2,
which draws V towards the identity.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax.nn import initializers

from jaxssl.core.bounds import check_at_least, check_unused
from jaxssl.core.errors import UserError
from jaxssl.models.adapters import Adapter, Compute, Shared, Site
from jaxssl.transfer.peft.base import Method, product
from jaxssl.transfer.peft.bottleneck import Narrow

DRAWN = initializers.normal(0.02)
OFF_DIAGONAL = 1e-6
"""What V begins with beside the diagonal, as in `adapters`."""


@dataclass(frozen=True, kw_only=True)
class Joined(Method, ABC):
    """What takes over several narrow layers."""

    of: tuple[str, ...]
    """The names of the adapters, each a bottleneck or a compacter."""

    def __post_init__(self):
        super().__post_init__()
        if len(self.of) < 2 or len({*self.of}) < len(self.of):
            raise UserError(
                "not a choice of adapters",
                where="of",
                expected="names of two adapters or more, each once",
                got=list(self.of),
            )

    @property
    def uses(self) -> Sequence[str]:
        """The adapters."""
        return self.of

    def joined(self, parts: Mapping[str, Method]) -> Adapter:
        """With the adapters' settings."""
        for name, part in parts.items():
            if not isinstance(part, Narrow):
                raise UserError(
                    f"{self.name} is of bottlenecks",
                    where=f"peft, {name}",
                    expected="bottleneck or compacter",
                    got=part.name,
                )
        narrow = {name: part for name, part in parts.items() if isinstance(part, Narrow)}
        return Together(name=self.name, method=self, parts=tuple(narrow.items()))

    @abstractmethod
    def join(self, site: Site, h: jax.Array, changes: Sequence[jax.Array]) -> jax.Array:
        """What is added to h [B, T, H], of what each adapter would add."""


@dataclass(frozen=True, kw_only=True)
class Together(Method):
    """A model's adapter of several, with the settings of all.

    Attributes:
      parts: the adapters by name.
    """

    method: Joined
    parts: tuple[tuple[str, Narrow], ...]

    @property
    def parameter_names(self) -> Sequence[str]:
        """Those of its parts."""
        return self.method.of

    def in_common(self, adapter: str) -> Shared:
        """Those of its parts."""
        del adapter
        found = (part.in_common(name) for name, part in self.parts)
        return {full: one for each in found for full, one in each.items()}

    def pull(self, name: str, value: jax.Array) -> tuple[float, jax.Array] | None:
        """As the method says; the parts are not drawn."""
        return self.method.pull(name, value)

    def sublayer(self, site: Site, compute: Compute, x: jax.Array) -> jax.Array:
        """The output of the sublayer, and what the adapters that are there make of it."""
        h = compute(x)
        there = [(name, part) for name, part in self.parts if part.is_at(site.path)]
        if not there:
            return h
        sites = [dataclasses.replace(site, adapter=name) for name, _ in there]
        changes = [part.change(at, h, x) for at, (_, part) in zip(sites, there)]
        return h + self.method.join(site, h, changes)


@dataclass(frozen=True, kw_only=True)
class Sum(Joined):
    """Bottlenecks side by side; weights of 1/n make it the average of n."""

    name: Literal["sum"] = "sum"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""

    def __post_init__(self):
        super().__post_init__()
        own = ["learning_rate_factor", "from_", "frozen"]
        check_unused(self, own, where="of a sum, which has no parameters: say it of its parts")

    @property
    def is_stored(self) -> bool:
        """It has no parameters."""
        return False

    def join(self, site: Site, h: jax.Array, changes: Sequence[jax.Array]) -> jax.Array:
        """Their sum."""
        del site, h
        return sum(changes[1:], start=changes[0])


@dataclass(frozen=True, kw_only=True)
class Fusion(Joined):
    """Attention over bottlenecks, for each token."""

    name: Literal["fusion"] = "fusion"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""
    regularization: float = 0.01
    """c of what is added to the loss of each, c |V - I|^2; 0.01 in the library `adapters`."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(0, self, "regularization")

    def pull(self, name: str, value: jax.Array) -> tuple[float, jax.Array] | None:
        """The values, towards the identity."""
        if name != "value" or not self.regularization:
            return None
        return 2 * self.regularization, value - jnp.eye(value.shape[-1], dtype=value.dtype)

    def join(self, site: Site, h: jax.Array, changes: Sequence[jax.Array]) -> jax.Array:
        """V of their weighted mean; where there is one alone, of that."""
        p, axes, shape = site.parameter, ("embed", None), (h.shape[-1], h.shape[-1])
        mean = self._mean(site, h, changes) if len(changes) > 1 else changes[0]
        return product(site, mean, p("value", _near_identity, axes, shape), 1)

    def _mean(self, site: Site, h: jax.Array, changes: Sequence[jax.Array]) -> jax.Array:
        """For each token the mean of what it attends to."""
        p, axes, shape = site.parameter, ("embed", None), (h.shape[-1], h.shape[-1])
        query = product(site, h, p("query", DRAWN, axes, shape), 1)
        query = query + p("query_bias", initializers.zeros, (None,), shape[:1])
        given = jnp.stack(changes, axis=-2)
        keys = product(site, given, p("key", DRAWN, axes, shape), 1)
        wide = jnp.promote_types(h.dtype, jnp.float32)
        scores = jnp.einsum(
            "bth,btah->bta", query, keys, precision="highest", preferred_element_type=wide
        )
        shares = jax.nn.softmax(scores, axis=-1).astype(h.dtype)
        return jnp.sum(shares[..., None] * given, axis=-2)


def _near_identity(key, shape, dtype=jnp.float32, out_sharding=None):
    del key, out_sharding
    eye = jnp.eye(*shape, dtype=dtype)
    return eye + OFF_DIAGONAL * (1 - eye)

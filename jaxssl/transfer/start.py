"""The parameters a run starts from: stored ones by a ledger, the others fresh."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxssl.checkpoint.ledger import Entry, InitConfig, Leaf, make_ledger
from jaxssl.checkpoint.stored import Stored, assemble, read
from jaxssl.core.layer_names import canonical, is_stacked, layer_range
from jaxssl.core.names import flatten, unflatten
from jaxssl.core.types import Params
from jaxssl.models.heads import head_name
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model


@dataclass(frozen=True, eq=False)
class Start:
    """Where each parameter comes from; without entries, all are fresh.

    Attributes:
      fresh_top: layers at the top of the stack that are fresh, counted from the last.
      stored: what is restored.
    """

    entries: Sequence[Entry] = ()
    fresh_top: int = 0
    stored: Stored = Stored()

    def is_verbatim(self, path: str, num_layers: int) -> bool:
        """Whether the base holds this leaf of the model as it is, so that it need not be kept."""
        entry = self._by_target.get(canonical(path))
        if entry is None or entry.action not in ("restored", "renamed") or entry.is_cast:
            return False
        _, end = layer_range(path) or (0, num_layers if is_stacked(path) else 0)
        return end <= num_layers - self.fresh_top

    def has_source(self, path: str) -> bool:
        """Whether this leaf of the model was restored, renamed or resized, and not made fresh."""
        entry = self._by_target.get(canonical(path))
        return entry is not None and entry.source is not None

    @property
    def _by_target(self) -> dict[str, Entry]:
        return {entry.target: entry for entry in self.entries if entry.target is not None}


def uncut(model: Model) -> Model:
    """The model with its stack in one segment."""
    return dataclasses.replace(model, config=dataclasses.replace(model.config, segments=()))


def plan_start(
    config: InitConfig,
    model: Model,
    stored: Stored,
    stored_heads: Sequence[str],
    *,
    is_whole: bool = False,
) -> Start:
    """Decides for every parameter; nothing is read yet.

    Args:
      stored_heads: the top-level names of the stored model's heads.
      is_whole: heads must be stored too: a run's own parameters, not those of its base.

    Raises:
      UserError: a parameter that is not covered; see `make_ledger`.
    """
    shapes = flatten(unbox(uncut(model).abstract()))
    target = {name: Leaf(tuple(x.shape), str(x.dtype)) for name, x in shapes.items()}
    heads = [] if is_whole else [head_name(head) for head in model.heads]
    entries = make_ledger(
        config, target, stored.leaves(), target_heads=heads, source_heads=stored_heads
    )
    return Start(entries, config.fresh_top, stored)


def first_params(
    start: Start, model: Model, key: jax.Array, abstract: Params, wanted: Callable[[str], bool]
) -> Params:
    """The parameters a run starts from, each shard on its own device.

    What is fresh does not depend on segments: it is cut from the values of an uncut stack.

    Args:
      abstract: shapes and shardings of all the model's parameters.
      wanted: which leaves to make, by path; the others are neither read nor computed.
    """
    leaves = {path: leaf for path, leaf in flatten(abstract).items() if wanted(path)}
    by_target = start._by_target
    needed = {canonical(path): leaf.sharding for path, leaf in leaves.items()}
    sources = {
        entry.source: needed[name]
        for name, entry in by_target.items()
        if name in needed and entry.source is not None
    }
    raw = read(start.stored, list(sources), sources)

    def build(raw, key) -> dict[str, Any]:
        fresh = flatten(unbox(uncut(model).init(key)))  # XLA computes only what is used of it
        whole = {name: _value(start, by_target.get(name), fresh[name], raw) for name in needed}
        return {path: _part(path, whole[canonical(path)]) for path in leaves}

    shardings = {path: leaf.sharding for path, leaf in leaves.items()}
    return unflatten(jax.jit(build, out_shardings=shardings)(raw, key))


def _value(
    start: Start, entry: Entry | None, fresh: jax.Array, raw: Mapping[str, Any]
) -> jax.Array:
    if entry is None or entry.source is None:
        return fresh
    assert entry.target is not None
    value = assemble(start.stored, raw, entry.source).astype(fresh.dtype)
    if entry.action == "resized":
        rows = min(value.shape[0], fresh.shape[0])
        return jnp.concatenate([value[:rows], fresh[rows:]])
    if start.fresh_top and is_stacked(entry.target):
        kept = value.shape[0] - start.fresh_top
        return jnp.concatenate([value[:kept], fresh[kept:]])
    return value


def _part(path: str, whole: jax.Array) -> jax.Array:
    layers = layer_range(path)
    return whole if layers is None else whole[layers[0] : layers[1]]

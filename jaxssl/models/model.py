"""A model as pure functions: what objectives, evaluation and generation call."""

import dataclasses
import functools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import ADAPTERS
from jaxssl.core.names import flatten, join, split, unflatten
from jaxssl.core.precision import Precision
from jaxssl.core.types import Batch, Params
from jaxssl.models.adapters import SHARED, Attached, adapted, shared_parameters
from jaxssl.models.config import Stack
from jaxssl.models.encoder_decoder import network_of
from jaxssl.models.heads import Head, Use
from jaxssl.models.layer_context import Memory
from jaxssl.models.layers import is_boxed, unbox
from jaxssl.models.network import Tie
from jaxssl.models.transformer import ModelConfig
from jaxssl.ops.attention.pattern import Pattern
from jaxssl.parallel.axes import constrain
from jaxssl.parallel.rules import Names, inside, rules_in_force


@dataclass(frozen=True)
class Model:
    """A configured model. Hashable; holds no parameters.

    Its methods take the tree of all networks' parameters: those of the main one lie at the root,
    those of another under its name.

    Attributes:
      config: the family's configuration.
      heads: those it carries.
      precision: the dtypes it computes in.
      root: where its parameters lie in the tree; empty for the main network.
      ties: parameters that it borrows from other networks: its own tree lacks them.
      others: the networks beside it, of the main one.
      adapters: changes of what it computes; their parameters lie under `adapters` in its own.
    """

    config: ModelConfig
    heads: tuple[Head, ...] = ()
    precision: Precision = Precision()
    root: str = ""
    ties: tuple[Tie, ...] = ()
    others: tuple["Model", ...] = ()
    adapters: tuple[Attached, ...] = ()

    def __post_init__(self):
        names = [adapter.name for adapter in self.adapters]
        if len({*names}) < len(names):
            raise UserError(
                "two adapters have one name",
                where="adapters",
                expected="a name for each: their parameters begin with it",
                got=", ".join(names),
            )

    @property
    def networks(self) -> dict[str, "Model"]:
        """Each network by itself, by name; the main one's name is empty."""
        alone = dataclasses.replace(self, others=())
        return {self.root: alone, **{other.root: other for other in self.others}}

    def network(self, name: str) -> "Model":
        """A network beside the main one; its methods take the same parameters as this one's."""
        return next(other for other in self.others if other.root == name)

    def network_of(self, path: str) -> str:
        """The network that a parameter of the tree lies in."""
        first = path.split("/")[0]
        return first if any(other.root == first for other in self.others) else ""

    def is_needed_alone(self, path: str) -> bool:
        """Whether a parameter of the tree is the main network's, or one that it borrows."""
        return not self.network_of(path) or any(_is_within(path, tie.of) for tie in self.ties)

    @property
    def module(self) -> nn.Module:
        """The Linen module."""
        return network_of(self.config)(self.config, self.heads, self.precision)

    def head_named(self, name: str) -> Head:
        """One of its heads."""
        return next(head for head in self.heads if head.name == name)

    def can(self, use: Use) -> bool:
        """Whether it has a head to `continue` texts, or to `fill` masks in them."""
        return any(head.use == use for head in self.heads)

    def head_for(self, use: Use) -> str:
        """The name of the head that does so."""
        return next(head.name for head in self.heads if head.use == use)

    @property
    def body_parts(self) -> tuple[str, ...]:
        """Top-level names of parameters that are no head's. The pooler counts as one: what another
        model's pooler learnt may be left behind as its heads are."""
        own = ("embeddings", "encoder", "decoder", "norm", "decoder_embeddings", "decoder_norm")
        return (*own, ADAPTERS)

    @property
    def optional_parts(self) -> tuple[str, ...]:
        """Beginnings of the paths of parameters that the configuration may ask for unread."""
        return tuple(_join(name, "pooler") for name in self.networks)

    @property
    def head_parts(self) -> tuple[str, ...]:
        """The paths that the parameters of heads lie under, in all networks."""
        named = self.networks.items()
        return tuple(_join(name, head.name) for name, model in named for head in model.heads)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The stacks of layers that its networks have, by their paths."""
        return tuple(
            dataclasses.replace(stack, name=_join(name, stack.name))
            for name, model in self.networks.items()
            for stack in model.config.stacks
        )

    def with_segments(self, segments: Mapping[str, tuple[int, ...]]) -> "Model":
        """The same networks with these segments of each stack, by its path; others in one."""
        lead = _join(self.root, "")
        own = {name.removeprefix(lead): x for name, x in segments.items() if name.startswith(lead)}
        return dataclasses.replace(
            self,
            config=self.config.with_segments(own),
            others=tuple(other.with_segments(segments) for other in self.others),
        )

    @property
    def lead(self) -> int:
        """Tokens that adapters put before each text; of an encoder-decoder before what is read."""
        return sum(each.method.lead for each in self.adapters)

    @property
    def shift(self) -> int:
        """Learned positions that adapters move tokens by."""
        return sum(each.method.shift for each in self.adapters)

    @property
    def taken(self) -> int:
        """Positions that adapters take."""
        return self.lead + self.shift

    @property
    def max_positions(self) -> int:
        """Most tokens of a text: the positions that adapters leave."""
        return self.config.max_positions - self.taken

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters, boxed with their logical axes (`layers.unbox` takes them off): of the
        main network its own and the other networks', of another its own alone."""
        own = self._init_own(key)
        if self.ties:
            own, _ = split(own, lambda path: not self._is_tied(path))
        own = self._zeroed(own)
        keys = {other: jax.random.fold_in(key, _number(other.root)) for other in self.others}
        return {**own, **{other.root: other.init(key) for other, key in keys.items()}}

    def _init_own(self, key: jax.Array) -> Params:
        """Of this network alone, with what it borrows."""

        def touch_everything(module):
            ids = jnp.zeros((1, 2), jnp.int32)
            batch = {"tokens": ids, "segment_ids": ids + 1, "positions": ids}
            hidden = module.encode(batch, lead=self.lead)[:, self.lead :]
            pooled = module.pool(hidden) if self.config.body().pooler else hidden[:, 0]
            if self.config.encoder_decoder:
                hidden = module.decode(batch, Memory(hidden, batch["segment_ids"]))
            for head in self.heads:
                x = pooled if head.input == "row" else hidden
                module.head(head.name, head.example(x))

        rngs = {"params": key, ADAPTERS: jax.random.fold_in(key, _number(ADAPTERS))}
        init = functools.partial(self.module.init, rngs, method=touch_everything)
        shared = shared_parameters(self.adapters, rngs[ADAPTERS], self.precision.parameters)
        with adapted(self.adapters, self.precision, {}, shared):
            variables = init(mutable=("params", ADAPTERS))
        added = dict(variables[ADAPTERS]) if ADAPTERS in variables else {}
        added |= {SHARED: shared} if shared else {}
        return {**variables["params"], **({ADAPTERS: added} if added else {})}

    def abstract(self) -> Params:
        """Shapes and dtypes of the parameters, boxed; nothing is computed."""
        return jax.tree.map(lambda leaf: leaf, _abstract(self))

    def _is_tied(self, path: str) -> bool:
        return any(_is_within(path, tie.own) for tie in self.ties if not tie.added)

    def _zeroed(self, params: Params) -> Params:
        """Fresh parameters in which what is added to something borrowed is zero."""
        added = [tie for tie in self.ties if tie.added]
        if not added:
            return params
        zeros, others = split(params, lambda path: any(_is_within(path, t.own) for t in added))
        return join(jax.tree.map(jnp.zeros_like, zeros), others)

    def own(self, params: Params) -> Params:
        """The network's parameters as its module takes them, with what it borrows, out of the tree
        of all networks or of a part of it."""
        if not (self.root or self.ties or self.others):
            return params
        names = {other.root for other in self.others}
        inside = params.get(self.root, {}) if self.root else params
        tree = {name: x for name, x in inside.items() if name not in names}
        for tie in self.ties:
            found, _ = split(params, functools.partial(_is_within, part=tie.of))
            borrowed = {
                tie.own + path.removeprefix(tie.of): jax.lax.stop_gradient(x)
                if tie.stop_gradient
                else x
                for path, x in flatten(found).items()
            }
            tree = _plus(tree, borrowed) if tie.added else join(tree, unflatten(borrowed))
        return tree

    def apply(
        self,
        params: Params,
        method: str,
        *args: Any,
        key: jax.Array | None = None,
        cache: Any = None,
        batch: Batch | None = None,
    ) -> Any:
        """What a method of the module makes of `args`: the one place where the module is called.

        Args:
          params: of all networks; or what of them the method reads.
          key: of dropout; None means evaluation. Networks of one run draw masks of their own.
          cache: keys and values so far. With one, what comes out is (output, the cache with what
            was written to it).
          batch: what adapters are told of the rows.
        """
        params = self.own(params)
        if key is not None and self.root:
            key = jax.random.fold_in(key, _number(self.root))
        rngs = None if key is None else {"dropout": key}
        variables = {"params": {name: x for name, x in params.items() if name != ADAPTERS}}
        added = dict(params.get(ADAPTERS, {}))
        shared = added.pop(SHARED, {})
        if added:
            variables[ADAPTERS] = added
        call = functools.partial(self.module.apply, method=method, rngs=rngs)
        with inside(self.root), adapted(self.adapters, self.precision, batch or {}, shared):
            if cache is None:
                return call(variables, *args)
            out, new = call({**variables, "cache": cache}, *args, mutable="cache")
        return out, new["cache"]  # type: ignore[index]

    def encode(
        self,
        params: Params,
        batch: Batch,
        dropout_key: jax.Array | None = None,
        pattern: Pattern | None = None,
    ) -> jax.Array:
        """Hidden states [B, T, H]; `dropout_key` None means evaluation.

        A batch with `features` [B, T, H] brings its hidden states along: they were encoded before.
        One with `row` uint32 [B], its rows' places in the global batch, is dropped as it would be
        there.

        Args:
          pattern: of attention in this call, in place of the configuration's; layers keep their
            windows. With a prefix the batch brings `prefix` int32 [B, T], 1 where a token is seen
            by its whole segment.
        """
        if "features" in batch:
            return jnp.asarray(batch["features"])
        hidden = self._encode(params, batch, dropout_key, pattern)
        return hidden[:, self.lead :] if self.lead else hidden

    def _encode(
        self, params: Params, batch: Batch, key: jax.Array | None, pattern: Pattern | None
    ) -> jax.Array:
        """With what adapters put before the text."""
        args = (batch, pattern, None, self.lead)
        return self.apply(params, "encode", *args, key=key, batch=batch)

    def memory(self, params: Params, batch: Batch, dropout_key: jax.Array | None = None) -> Memory:
        """What an encoder-decoder's decoder attends to, as `encode` makes it; what adapters put
        before the text is seen, too."""
        segments = jnp.asarray(batch["segment_ids"])
        if "features" in batch or not self.lead:
            return Memory(self.encode(params, batch, dropout_key), segments)
        before = jnp.broadcast_to(segments[:, :1], (len(segments), self.lead))
        segments = jnp.concatenate([before, segments], axis=1)
        return Memory(self._encode(params, batch, dropout_key, None), segments)

    def write(
        self,
        params: Params,
        batch: Batch,
        memory: Memory,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states [B, U, H] of an encoder-decoder's decoder, all tokens at once.

        Args:
          batch: of the decoder's side: `tokens` [B, U], each the one before what is guessed at its
            place, `segment_ids`, `positions` and `row`.
          memory: what `encode` made of the other side.
        """
        return self.apply(params, "decode", batch, memory, key=dropout_key, batch=batch)

    def decode(
        self,
        params: Params,
        batch: Batch,
        cache: Any,
        memory: Memory | None = None,
        pattern: Pattern | None = None,
    ) -> tuple[jax.Array, Any]:
        """Hidden states of new tokens and the cache with their keys and values written.

        The batch's `positions` are slots of the cache, behind those of what adapters put before
        the text; each row fills its own without gaps.

        Args:
          memory: of an encoder-decoder: with hidden states in the first call, whose keys and values
            the cache keeps, and without in those that follow.
          pattern: as in `encode`, of models of one stack. One with a prefix is for the first call.
        """
        kept = [x for path, x in flatten(cache).items() if path.endswith("cached_key")]
        slots = kept[0].shape[-2] if kept else batch["tokens"].shape[1]
        if memory is None:
            if self.lead:
                batch = {**batch, "positions": batch["positions"] + self.lead}
            args = (batch, pattern, slots, self.lead, True)
            return self.apply(params, "encode", *args, cache=cache, batch=batch)
        return self.apply(params, "decode", batch, memory, slots, cache=cache, batch=batch)

    def head(
        self,
        params: Params,
        name: str,
        x: Any,
        dropout_key: jax.Array | None = None,
        rows: jax.Array | None = None,
    ) -> jax.Array:
        """One head's output; reads only `head_params(params, name)`.

        Args:
          x: what the head is given (`Head.example`).
          rows: a batch's `row`, the places in the global batch of the rows of `x`.
        """
        batch: Batch = {} if rows is None else {"row": rows}
        return self.apply(params, "head", name, x, rows, key=dropout_key, batch=batch)

    def pool(self, params: Params, hidden: jax.Array) -> jax.Array:
        """The sentence vector [B, H]."""
        return self.apply(params, "pool", hidden)

    def head_params(self, params: Params, name: str) -> Params:
        """The parameters that a head reads, as a tree that `head` accepts."""
        parts = self.head_named(name).reads(self.config)
        if self.adapters:
            parts = (*parts, *(_join(ADAPTERS, part) for part in parts))
        wanted = [_join(self.root, part) for part in parts]
        wanted += [tie.of for tie in self.ties if any(_is_within(tie.own, p) for p in parts)]
        return split(params, lambda path: any(_is_within(path, part) for part in wanted))[0]

    def head_axes(self, params: Params, name: str) -> Params:
        """The logical axes of `head_params`, in a tree as they are and as the table in force lays
        them out; () of what is borrowed from another network."""
        own, table = flatten(self.abstract()), rules_in_force()

        def axes(path: str) -> Names:
            return table.of_parameter(path, own[path].names) if is_boxed(own.get(path)) else ()

        return unflatten({path: axes(path) for path in flatten(self.head_params(params, name))})

    def fresh_cache(
        self,
        params: Params,
        batch_size: int,
        length: int,
        memory_length: int | None = None,
        adapter: jax.Array | None = None,
    ) -> Params:
        """A cache as `empty_cache` makes it, that has read what adapters put before the text.

        Args:
          adapter: int32 [B], which set of parameters each row uses, where there are several.
        """
        cache = self.empty_cache(batch_size, length, memory_length)
        if not self.lead or memory_length is not None:
            return cache
        none = jnp.zeros((batch_size, 0), jnp.int32)
        batch = {"tokens": none, "segment_ids": none, "positions": none}
        batch |= {} if adapter is None else {"adapter": adapter}
        args = (batch, None, length + self.lead, self.lead)
        return self.apply(params, "encode", *args, cache=cache, batch=batch)[1]

    def empty_cache(self, batch_size: int, length: int, memory_length: int | None = None) -> Params:
        """Zeroed keys and values for `length` positions of each row, and for a memory of
        `memory_length` tokens, in the compute dtype; for what adapters put before these, too.

        What the layers keep, and how it is laid out, they say themselves: it is what they would
        write in a pass over rows of that length.
        """
        alone = dataclasses.replace(self, root="", ties=(), others=())

        memory = None
        if memory_length is not None:
            shape = (batch_size, memory_length + self.lead)
            hidden = jnp.zeros((*shape, self.config.hidden_size), self.precision.compute)
            memory = Memory(hidden, jnp.zeros(shape, jnp.int32))

        def written(params):
            slots = length + (self.lead if memory is None else 0)
            ids = jnp.zeros((batch_size, slots), jnp.int32)
            batch = {"tokens": ids, "segment_ids": ids, "positions": ids}
            return alone.decode(params, batch, {}, memory)[1]

        boxed = jax.eval_shape(written, unbox(alone.abstract()))

        def zeros(box):
            return constrain(jnp.zeros(box.value.shape, box.value.dtype), box.names)

        return jax.tree.map(zeros, boxed, is_leaf=is_boxed)


def _plus(tree: Params, more: Mapping[str, jax.Array]) -> Params:
    """A tree with more added to some of its leaves, by path."""
    flat = flatten(tree)
    return unflatten({**flat, **{path: flat[path] + x for path, x in more.items()}})


def _join(root: str, path: str) -> str:
    return f"{root}/{path}" if root else path


def _is_within(path: str, part: str) -> bool:
    return path == part or path.startswith(part + "/")


def _number(name: str) -> int:
    """What a network's keys are folded with."""
    return zlib.crc32(name.encode())


@functools.lru_cache(maxsize=32)
def _abstract(model: Model) -> Params:
    """To trace a model takes a third of a second, and its shapes are asked for a dozen times."""
    # The key inside: outside, it would be computed on the devices of the mesh: a plan has none.
    return jax.eval_shape(lambda: model.init(jax.random.key(0)))


def num_parameters(params: Params, leave_out: tuple[str, ...] = ()) -> int:
    """The number of parameters, without the top-level parts named in `leave_out`."""
    kept = {name: part for name, part in params.items() if name not in leave_out}
    return sum(leaf.size for leaf in jax.tree.leaves(kept))


def check_length(
    config: ModelConfig,
    sequence_length: int,
    where: str = "data.sequence_length",
    *,
    lead: int = 0,
) -> None:
    """Refuses sequences longer than the model's positions.

    Args:
      lead: positions that adapters take.

    Raises:
      UserError: says both lengths.
    """
    if lead and sequence_length + lead > config.max_positions:
        room = config.max_positions - lead
        shorter = f"set {where}={room}, or " if room > 0 and where.startswith("data.") else ""
        raise UserError(
            "with what adapters take of them, the sequence is longer than the model's positions",
            where=where,
            expected=f"at most model.max_positions={config.max_positions} less {lead}",
            got=sequence_length,
            fix=f"{shorter}give the adapter a smaller length",
        )
    if sequence_length > config.max_positions:
        raise UserError(
            "the sequence is longer than the model's positions",
            where=where,
            expected=f"at most model.max_positions={config.max_positions}",
            got=sequence_length,
            fix=f"set {where}={config.max_positions}, or give the model more positions"
            if where.startswith("data.")
            else "shorten the sequence or give the model more positions",
        )

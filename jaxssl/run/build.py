"""Building a run: data opened; model, objectives and optimizer made, and checked together."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxssl.checkpoint.origin import open_origin
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.core.types import Vocabulary, batch_shape
from jaxssl.data.config import StoreConfig
from jaxssl.data.mixture import Draws, steps_until
from jaxssl.data.store.store import TokenStore
from jaxssl.data.tokenizer.extension import pieces_before
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Objective
from jaxssl.optim.build import make_optimizer
from jaxssl.optim.groups import GroupOf
from jaxssl.optim.weight_decay import check_no_decay
from jaxssl.parallel.mesh import check_batch, make_mesh
from jaxssl.program.parameter_use import check_read, reached
from jaxssl.program.phase import Phases
from jaxssl.program.program import Program, Stage, Stream
from jaxssl.run.config import RunConfig, StreamConfig
from jaxssl.run.feeds import Opened, open_stream
from jaxssl.run.networks import check_untrained, inits, make_model, untrained, with_networks
from jaxssl.train.feeds import Feed, Feeds
from jaxssl.train.loop import Work
from jaxssl.train.samples import check_samples
from jaxssl.train.settings import Epochs
from jaxssl.train.validation import check_best_by
from jaxssl.transfer import freezing
from jaxssl.transfer.growth import NewPieces
from jaxssl.transfer.start import Start, open_starts, uncut


@dataclass(frozen=True, eq=False)
class Built:
    """A run, read and checked.

    Attributes:
      config: with the labels of its data, and the model as its objectives want it.
      work: for the loop.
      streams: their data, all splits.
      unread: parts of the model that are there and that nothing reads.
    """

    config: RunConfig
    work: Work
    streams: dict[str, Opened]
    unread: tuple[str, ...] = ()

    @property
    def data(self) -> str:
        """A checksum of all that is trained on."""
        sums = [opened.checksum for opened in self.streams.values()]
        return sums[0] if len(sums) == 1 else ",".join(sums)


def build(config: RunConfig) -> Built:
    """Opens the data, builds model, objectives and optimizer, and checks that they fit together.

    Raises:
      UserError: anything that would fail or mislead later.
    """
    tokenizer = load_tokenizer(find_tokenizer(config))
    opened = {
        name: open_stream(stream, config.model, tokenizer)
        for name, stream in config.all_streams.items()
    }
    vocabulary = make_vocabulary(tokenizer, config.model.vocab_size)
    config = config.with_streams({name: each.config for name, each in opened.items()})
    config = dataclasses.replace(config, model=fitted(config.model, config.objectives))
    config = with_networks(config)
    for objective in config.objectives:
        objective.check(config.model, vocabulary)
    check_samples(config.samples, config.model, config.heads, tokenizer, vocabulary)
    program, epochs = make_program(config, vocabulary, opened, new_pieces(config, tokenizer))
    train, evaluation = epochs.resolve(config.train, config.evaluation)
    settings = dataclasses.replace(config, train=train, evaluation=evaluation)
    feeds = make_feeds(config, tokenizer, opened)
    feeds = dataclasses.replace(feeds, encodes_once=_encodes_once(config, program, opened))
    check_best_by(program, feeds, config.evaluation)
    unread = check_read(program.model, program.streams, vocabulary)
    with jax.set_mesh(program.mesh):
        work = Work(program=program, feeds=feeds, settings=settings, phases=Phases(program))
    return Built(config, work, opened, tuple(unread))


def make_program(
    config: RunConfig,
    vocabulary: Vocabulary,
    opened: Mapping[str, Opened],
    pieces: Mapping[str, NewPieces],
) -> tuple[Program, Epochs]:
    """What is computed, and what an epoch is in steps.

    Args:
      pieces: those that the tokenizer has besides those of what a network starts from.

    Raises:
      UserError: parts that do not fit together.
    """
    mesh = make_mesh(config.mesh)
    for name, stream in config.all_streams.items():
        _check_rows_enough(stream, f"streams.{name}." if name else "")
        check_batch(stream.data.batch_size, config.train.accumulation, mesh)
    draws, epochs = _plan_draws(config, opened)
    model = make_model(config)
    _check_vocabularies(model)
    start = open_starts(inits(config), model, config.checkpoint, config.out, pieces)
    check_untrained(config, start.entries)
    model, stages, group_of = plan_stages(config, model, start, epochs)
    check_no_decay(config.optimizer.no_decay, model.abstract())
    steps = epochs.resolve(config.train, config.evaluation)[0].steps
    _check_stages(stages, steps)
    streams = _trained_streams(config, opened)
    reach = None if config.mixture.takes_all else reached(model, streams, vocabulary)
    optimizer, schedule = make_optimizer(
        config.optimizer,
        steps,
        _places(config, opened),
        {stack.name: stack.depth for stack in model.stacks},
        grouped_by_reach(group_of, reach, _trained(model, stages)),
    )
    program = Program(
        model=model,
        streams=streams,
        optimizer=optimizer,
        schedule=schedule,
        vocabulary=vocabulary,
        mesh=mesh,
        start=start,
        stages=stages,
        regularization=config.regularization,
        seed=config.train.seed,
        accumulation=config.train.accumulation,
        ema=config.train.ema,
        draws=draws,
        reached=reach,
    )
    return program, epochs


def _check_rows_enough(stream: StreamConfig, lead: str) -> None:
    """Refuses a batch with fewer rows than its objective has a use for."""
    least, size = stream.objective.least_rows, stream.data.batch_size
    if size < least:
        raise UserError(
            "a batch has no other row that a text could be told from",
            where=f"{lead}data.batch_size",
            expected=f"{least} or more, for {stream.objective.name}: the more, the better",
            got=size,
            fix=f"set {lead}data.batch_size=64, and train.accumulation where memory is short: a "
            "row is told from all rows of the batch, not of its part",
        )


def _places(config: RunConfig, opened: Mapping[str, Opened]) -> int | None:
    """Of tokens, in the rows of a step; None where streams by turns have steps of several sizes."""
    sizes = [int(np.prod(batch_shape(each.largest))) for each in opened.values()]
    if config.mixture.takes_all:
        return sum(sizes)
    return sizes[0] if len({*sizes}) == 1 else None


def _plan_draws(config: RunConfig, opened: Mapping[str, Opened]) -> tuple[Draws, Epochs]:
    """Which streams each batch is of, and what an epoch of the stream that counts is in steps."""
    streams = config.all_streams
    weights = {name: stream.weight for name, stream in streams.items()}
    rows = {
        name: (opened[name].splits["train"].num_rows, stream.data.batch_size)
        for name, stream in streams.items()
    }
    draws = config.mixture.draws(weights, rows)
    counted = config.train.epochs_of or next(iter(streams))
    per_epoch = make_feed(streams[counted], opened[counted]).per_epoch
    return draws, Epochs(per_epoch, functools.partial(steps_until, draws, counted))


def _trained_streams(config: RunConfig, opened: Mapping[str, Opened]) -> tuple[Stream, ...]:
    """Each stream's objective with the shapes of its batches and its weight in the loss."""
    return tuple(
        Stream.of(
            stream.objective,
            opened[name].largest,
            name=name,
            weight=config.mixture.loss_weight(stream.weight),
        )
        for name, stream in config.all_streams.items()
    )


def make_feeds(config: RunConfig, tokenizer: Tokenizer, opened: Mapping[str, Opened]) -> Feeds:
    """What a run is fed."""
    streams = config.all_streams
    feeds = {name: make_feed(streams[name], each) for name, each in opened.items()}
    return Feeds(streams=feeds, tokenizer=tokenizer, metric=config.chosen_by)


def make_feed(stream: Any, opened: Opened) -> Feed:
    """The data of a stream."""
    validation = stream.validation
    return Feed(
        config=stream.data,
        train=opened.splits["train"],
        validation=None if validation is None else opened.splits[validation],
        tokens_per_byte=opened.tokens_per_byte.get(validation or ""),
    )


# --- The tokenizer ------------------------------------------------------------------------------


def find_tokenizer(config: RunConfig) -> str:
    """The directory, file or name of a run's tokenizer: the one that is given, that of its token
    stores, or that of the run it goes on from. Of several it is the one that all others are the
    beginning of.

    Raises:
      UserError: none of these, or two that differ in more than further pieces of the one; further
        pieces without `init.new_pieces`.
    """
    given: list[_Given] = []
    for name, stream in config.all_streams.items():
        if isinstance(stream.data, StoreConfig) and TokenStore.open(stream.data.store):
            key, path = "data.store", f"{stream.data.store}/tokenizer"
            key = f"streams.{name}.{key}" if name else key
            given.append(_Given(f"the token store of {name or 'data'}", key, path))
    if config.tokenizer is not None:
        given.append(_Given("tokenizer", "tokenizer", config.tokenizer))
    for name, init in inits(config).items():
        if init is not None:
            what, key = _started(name), "init.from"
            if name:
                key = f"networks.{name}.init.from"
            path = str(open_origin(init.run_dir).tokenizer)
            given.append(_Given(what, key, path, may_grow=init.new_pieces != "fresh"))
    if not given:
        raise UserError(
            "without a run to start from, a tokenizer must be given",
            where="tokenizer",
            expected="a tokenizer directory, a .model file or a name on the hub",
            got="null",
            fix="set tokenizer=..., or init.from=RUN",
        )
    if len(given) == 1:
        return given[0].path
    loaded = [_Loaded(one, load_tokenizer(one.path)) for one in given]
    largest = max(loaded, key=lambda one: one.tokenizer.vocab_size)
    for one in loaded:
        _check_same_tokenizer(one, largest, loaded)
    return largest.given.path


class _Given(NamedTuple):
    """A tokenizer that a run is told of.

    Attributes:
      what: what has it.
      key: the key that names that.
      path: where it lies.
      may_grow: whether the run's may have further pieces behind its own.
    """

    what: str
    key: str
    path: str
    may_grow: bool = True


class _Loaded(NamedTuple):
    """The same with the tokenizer."""

    given: _Given
    tokenizer: Tokenizer


def _started(network: str) -> str:
    """What a network starts from, in words."""
    return f"what {network} starts from" if network else "the run to start from"


def _check_same_tokenizer(one: _Loaded, largest: _Loaded, order: Sequence[_Loaded]) -> None:
    """Refuses to go on with embeddings of another tokenizer's tokens."""
    if one.tokenizer.fingerprint == largest.tokenizer.fingerprint:
        return
    is_beginning = one.tokenizer.is_beginning_of(largest.tokenizer)
    if is_beginning and one.given.may_grow:
        return
    first, other = sorted((one, largest), key=order.index)  # stores come first
    is_store = other.given.key.endswith("data.store")
    ours, theirs = first.tokenizer, other.tokenizer
    raise UserError(
        f"{first.given.what} was made with another tokenizer than {other.given.what}",
        where=f"{first.given.key}, {other.given.key}",
        expected=f"the tokenizer of {other.given.what}: {theirs.name}, "
        f"{theirs.vocab_size:,} pieces ({theirs.fingerprint[:12]})",
        got=f"{ours.name}, {ours.vocab_size:,} pieces ({ours.fingerprint[:12]})",
        fix="its further pieces begin as means of the old ones with init.new_pieces=mean"
        if is_beginning
        else f"prepare the text of {first.given.key} in another `out` with "
        f"tokenizer={other.given.path}, or "
        + (
            "the other way round"
            if is_store
            else f"give {other.given.key} one with the same tokenizer"
        ),
    )


def new_pieces(config: RunConfig, tokenizer: Tokenizer) -> dict[str, NewPieces]:
    """The pieces that the tokenizer has besides those of what a network starts from, where their
    rows are made of others' (`init.new_pieces`)."""
    found = {}
    for name, init in inits(config).items():
        if init is None or init.scratch or init.new_pieces == "fresh":
            continue
        old = load_tokenizer(open_origin(init.run_dir).tokenizer)
        before = pieces_before(old, tokenizer)
        found[name] = NewPieces(old.vocab_size, tuple(map(tuple, before)))
    return found


def make_vocabulary(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """What objectives need of the tokenizer, for a model with `size` embeddings.

    Raises:
      UserError: the tokenizer has more tokens than that.
    """
    if tokenizer.vocab_size > size:
        raise UserError(
            "the model's vocabulary is smaller than the tokenizer's",
            where="model.vocab_size",
            expected=f"at least {tokenizer.vocab_size}, the size of tokenizer {tokenizer.name}",
            got=size,
            fix=f"set model.vocab_size={tokenizer.vocab_size}",
        )
    roles = {role: id_ for role, id_ in tokenizer.special_ids.items() if id_ is not None}
    starts = np.ones(size, bool)
    starts[: tokenizer.vocab_size] = tokenizer.word_starts()
    return Vocabulary(
        size=tokenizer.vocab_size,
        special_ids=roles,
        document_end=tokenizer.document_end,
        word_starts=starts,
        special_tokens=tokenizer.special_tokens,
    )


def _check_vocabularies(model: Model) -> None:
    """Refuses a network that reads other tokens than the main one."""
    for other in model.others:
        if other.config.vocab_size < model.config.vocab_size:
            raise UserError(
                "a network has fewer embeddings than the main one",
                where=f"networks.{other.root}.model.vocab_size",
                expected=f"at least {model.config.vocab_size}",
                got=other.config.vocab_size,
            )


# --- What is trained ----------------------------------------------------------------------------


def fitted(model: ModelConfig, objectives: Sequence[Objective]) -> ModelConfig:
    """The model without a pooler that none of its objectives has a use for."""
    if not model.body().pooler or any(each.keeps_pooler(model) for each in objectives):
        return model
    return dataclasses.replace(model, pooler=False)  # type: ignore[call-arg]


def plan_stages(
    config: RunConfig, model: Model, start: Start, epochs: Epochs
) -> tuple[Model, tuple[Stage, ...], GroupOf | None]:
    """The model, cut so that each array is wholly trained or frozen in each stage; the stages; and,
    where there are several, which of them each parameter is first trained in, by path."""
    whole, fixed = unbox(uncut(model).abstract()), untrained(config)
    chosen = freezing.choose_stages(
        config.freezing, whole, model.head_parts, [other.root for other in model.others], fixed
    )
    decisions = [decision for _, decision in chosen]
    cuts = decisions
    if config.regularization.needs_anchors and start.fresh_from:
        cuts = [*decisions, freezing.below(start.fresh_from, decisions[0])]
    segments = freezing.cut(cuts)
    if segments:
        model = model.with_segments(segments)
    leaves = flatten(unbox(model.abstract()))
    stages, groups = [], {}
    for number, (epoch, decision) in enumerate(chosen):
        trained = {path for path, x in leaves.items() if freezing.is_trained(decision, path, x)}
        stages.append(Stage(epochs.steps(epoch) if epoch else 0, trained.__contains__))
        groups = {**dict.fromkeys(trained, f"stage{number}"), **groups}

    def group_of(path: str) -> str:
        return groups.get(path, "never")  # asked of all, for the receipt of full tuning

    return model, tuple(stages), group_of if len(stages) > 1 else None


def _trained(model: Model, stages: Sequence[Stage]) -> frozenset[str]:
    """The parameters that a stage trains, by path."""
    paths = flatten(unbox(model.abstract()))
    return frozenset(path for path in paths if any(stage.is_trained(path) for stage in stages))


def grouped_by_reach(
    group_of: GroupOf | None, reach: Mapping[str, frozenset[str]] | None, trained: frozenset[str]
) -> GroupOf | None:
    """Groups of parameters that are updated together: of one stage, and reached by the same
    streams. None where there is one group: those that no stream reaches, as a pooler that nothing
    reads, are another, which no step has a gradient of."""
    if reach is None or (len({*reach.values()}) == 1 and trained <= next(iter(reach.values()))):
        return group_of

    def group(path: str) -> str:
        streams = "+".join(name for name, paths in reach.items() if path in paths) or "none"
        return streams if group_of is None else f"{group_of(path)}:{streams}"

    return group


def _check_stages(stages: Sequence[Stage], steps: int) -> None:
    """Refuses stages that would never begin, or not last a step."""
    firsts = [stage.first_step for stage in stages]
    if firsts[-1] >= steps or len(set(firsts)) < len(firsts):
        raise UserError(
            "the schedule of unfreezing does not fit the run",
            where="freezing.gradual, freezing.stages",
            expected=f"stages that begin at different steps, before the end at step {steps:,}",
            got=f"steps {', '.join(map(str, firsts))}",
            fix="train longer (train.epochs), or unfreeze sooner and in larger parts",
        )


def _encodes_once(config: RunConfig, program: Program, opened: Mapping[str, Opened]) -> bool:
    """Whether each example is encoded once: of one task alone, over rows of one side, whose body is
    not trained."""
    (stream, *others), stages = program.streams, program.stages
    alone = not (others or program.model.others) and "" in stream.objective.named_tasks
    if not (alone and config.freezing.cache and len(stages) == 1):
        return False
    data: Any = opened[stream.name].splits["train"]
    if data.examples.sides:
        return False
    heads = {*(head.name for head in program.model.heads), "pooler"}
    body = (path for path in flatten(program.model.abstract()) if path.split("/")[0] not in heads)
    return not any(map(stages[0].is_trained, body))

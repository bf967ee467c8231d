"""Building a run: data opened; model, objectives and optimizer made, and checked together."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten, split
from jaxssl.core.types import Vocabulary, batch_shape
from jaxssl.data.config import StoreConfig
from jaxssl.data.mixture import Draws, steps_until
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Objective
from jaxssl.optim.build import make_optimizer
from jaxssl.optim.groups import GroupOf
from jaxssl.optim.weight_decay import check_no_decay
from jaxssl.parallel.compiler import compiler_options
from jaxssl.parallel.mesh import check_batch, check_gather_once, check_length, make_mesh
from jaxssl.parallel.rules import use_mesh, use_rules
from jaxssl.program.coded import describe_codes
from jaxssl.program.parameter_use import check_read, reached
from jaxssl.program.phase import Phases
from jaxssl.program.placement import check_patterns, check_split, placements, whole_leaves
from jaxssl.program.program import Program, Stage, Stream
from jaxssl.program.state import abstract_params
from jaxssl.run.adapters import check_adapters, check_leads, rate_factors, trained_with_adapters
from jaxssl.run.adopted import check_going_on, with_adopted, without_adopted
from jaxssl.run.config import RunConfig, StreamConfig
from jaxssl.run.feeds import Opened, open_stream
from jaxssl.run.networks import check_untrained, make_model, untrained, with_networks
from jaxssl.run.tokenizers import find_tokenizer, make_vocabulary, new_pieces
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
    shift = _positions_taken(config)
    config, tokenizer, opened = read_data(config)
    vocabulary = make_vocabulary(tokenizer, config.model.vocab_size)
    left = dataclasses.replace(config.model, max_positions=config.model.max_positions - shift)
    for objective in config.objectives:
        objective.check(left, vocabulary)
    read = (config.model, config.heads, tokenizer, vocabulary)
    check_samples(config.samples, *read, lead=config.taken)
    program, epochs = make_program(config, vocabulary, opened, new_pieces(config, tokenizer))
    train, evaluation = epochs.resolve(config.train, config.evaluation)
    settings = dataclasses.replace(config, train=train, evaluation=evaluation)
    feeds = make_feeds(config, tokenizer, opened)
    feeds = dataclasses.replace(feeds, encodes_once=_encodes_once(config, program, opened))
    check_best_by(program, feeds, config.evaluation)
    unread = check_read(program.model, program.streams, vocabulary)
    with use_mesh(program.mesh):
        work = Work(program=program, feeds=feeds, settings=settings, phases=Phases(program))
    return Built(config, work, opened, tuple(unread))


def read_data(config: RunConfig) -> tuple[RunConfig, Tokenizer, dict[str, Opened]]:
    """The data of all streams, and the configuration with what they tell: the labels, and the model
    and the networks as the objectives want them.

    Raises:
      UserError: data that are not there or damaged, or that do not fit the model.
    """
    tokenizer = load_tokenizer(find_tokenizer(config))
    for task in config.tasks.values():
        tokenizer = task.prepared(tokenizer)
    opened = {
        name: open_stream(stream, config.model, tokenizer)
        for name, stream in config.all_streams.items()
    }
    methods = {name: method.prepared(tokenizer) for name, method in config.peft.items()}
    config = dataclasses.replace(config, peft=methods)
    config = config.with_streams({name: each.config for name, each in opened.items()})
    config = dataclasses.replace(config, model=fitted(config.model, config.objectives))
    return with_networks(config), tokenizer, opened


def make_program(
    config: RunConfig,
    vocabulary: Vocabulary,
    opened: Mapping[str, Opened],
    pieces: Mapping[str, NewPieces],
    devices: Sequence[Any] | None = None,
) -> tuple[Program, Epochs]:
    """What is computed, and what an epoch is in steps.

    Args:
      pieces: those that the tokenizer has besides those of what a network starts from.
      devices: None for those of this machine.

    Raises:
      UserError: parts that do not fit together.
    """
    mesh = make_mesh(config.mesh, devices)
    for name, stream in config.all_streams.items():
        _check_rows_enough(stream, f"streams.{name}." if name else "")
        check_batch(stream.data.batch_size, config.train.accumulation, mesh)
        check_length(_length(stream, opened[name]), mesh)
    if config.mesh.gather_once:
        check_gather_once(config.train.accumulation, _comparing(config))
    draws, epochs = _plan_draws(config, opened)
    model = make_model(config)
    _check_vocabularies(model)
    check_adapters(config, model)
    check_leads(config, model, opened)
    check_going_on(config, model)
    start = open_starts(without_adopted(config), model, config.checkpoint, config.out, pieces)
    start = with_adopted(start, config, model)
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
        rate_factors(config, model, start),
    )
    check_layout(config, model, mesh, optimizer, _trained(model, stages))
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
        gathers_once=config.mesh.gather_once,
        ema=config.train.ema,
        draws=draws,
        reached=reach,
        compiler=compiler_options(mesh, config.mesh.compiler, through_frozen=bool(model.adapters)),
        is_offloaded=config.mesh.offload_optimizer,
    )
    describe_codes(program)  # refuses codes of nothing, before any data are read
    return program, epochs


def check_layout(
    config: RunConfig,
    model: Model,
    mesh: Mesh,
    optimizer: optax.GradientTransformation,
    trained: frozenset[str],
) -> None:
    """Refuses parameters that do not lie on the mesh as a run should have them.

    Args:
      trained: by path.

    Raises:
      UserError: an axis that does not divide, a pattern that changes nothing, or a large array
        that is whole where the run does not say so.
    """
    with use_rules(config.mesh.layout()):
        boxed = abstract_params(model)
        placed = placements(boxed, mesh)
        check_patterns(config.mesh.parameters, boxed)
    if not config.mesh.replicated:
        own, _ = split(boxed, trained.__contains__)
        state = {} if config.mesh.offload_optimizer else jax.eval_shape(optimizer.init, own)
        check_split([*placed, *whole_leaves(state, mesh, "optimizer state ")])


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


def _positions_taken(config: RunConfig) -> int:
    """How many of the model's learned positions its adapters take. Raises UserError: one that the
    model cannot have, or as many as there are."""
    for method in config.peft.values():
        method.check(config.model)
    taken = sum(method.shift for method in config.peft.values())
    if taken >= config.model.max_positions:
        raise UserError(
            "the prefixes leave no position for a text",
            where="peft",
            expected=f"fewer than model.max_positions={config.model.max_positions} in all",
            got=taken,
            fix="shorten them, or set takes_positions=false",
        )
    return taken


def _comparing(config: RunConfig) -> dict[str, str]:
    """{path: name} of the objectives that compare all rows of a batch."""
    return {
        f"streams.{name}.objective" if name else "objective": stream.objective.name
        for name, stream in config.all_streams.items()
        if stream.objective.whole_batch
    }


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


def _length(stream: StreamConfig, opened: Opened) -> int:
    """Tokens of the longest rows that a model reads: an objective may read longer ones for them."""
    if isinstance(stream.data, StoreConfig):
        return stream.data.sequence_length
    return opened.largest["tokens"].shape[-1]


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
    selection, heads = trained_with_adapters(config, model, start)
    chosen = freezing.choose_stages(
        selection, whole, heads, [other.root for other in model.others], fixed
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

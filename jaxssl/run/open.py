"""What a run left: its model opened for evaluation, generation, filling masks.

from jaxssl.run import open as runs
model = runs.open_run("runs/books")
runs.fill_masks("runs/books", ["It was the best of [MASK]."])
"""

import contextlib
import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxssl.checkpoint.hf.generation import stop_ids
from jaxssl.checkpoint.init_config import InitConfig
from jaxssl.checkpoint.manager import CheckpointManager
from jaxssl.checkpoint.parameter_index import index_run
from jaxssl.core.bounds import refuse_below
from jaxssl.core.errors import UserError
from jaxssl.core.keys import numbered_seed
from jaxssl.core.names import matches
from jaxssl.core.types import Params, Vocabulary
from jaxssl.data.config import TablesConfig
from jaxssl.data.loader import Data
from jaxssl.data.tables.config import TableSplits
from jaxssl.data.tokenizer.chat_template import with_template
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.generate.chat import Conversation
from jaxssl.generate.decode import check_source
from jaxssl.generate.engine import apart
from jaxssl.generate.settings import Sampling
from jaxssl.generate.texts import (
    LanguageModel,
    OnPiece,
    Text,
    Writing,
    prompt_ids,
    write_texts,
)
from jaxssl.models.heads import Use
from jaxssl.models.model import Model, check_length
from jaxssl.objectives.base import Objective
from jaxssl.parallel import hosts
from jaxssl.parallel.mesh import MeshConfig, batch_shards, make_mesh, replicated
from jaxssl.parallel.rules import use_layout
from jaxssl.program.placement import check_patterns
from jaxssl.program.state import abstract_params, everything
from jaxssl.program.step import make_eval_step
from jaxssl.run.adapters import check_lead
from jaxssl.run.alike import check_alike
from jaxssl.run.applied import Able, apply, fills, has_task, writes
from jaxssl.run.config import RunConfig, StreamConfig
from jaxssl.run.feeds import open_split
from jaxssl.run.networks import inits, make_model
from jaxssl.run.parameters import decoded, read_parameters
from jaxssl.run.places import data_from_here
from jaxssl.run.recipes import read_config
from jaxssl.run.tokenizers import make_vocabulary
from jaxssl.train.evaluation import DataPass, Evaluation, evaluate
from jaxssl.train.samples import fill_text, mask_text
from jaxssl.transfer.start import Start, plan_start

SAMPLING, WRITING = Sampling(), Writing()
WINDOW = 4096
"""Tokens of a conversation with a model whose rows in training are not known."""
VERBS: dict[Use, str] = {"continue": "generate", "fill": "fill-mask"}
"""The verb that asks a head for it."""


@dataclass(frozen=True)
class TrainedModel:
    """A run's model with its parameters, and nothing of its optimizer.

    Attributes:
      run_dir: the run's; with adapters of others, that whose task, heads and tokenizer are used.
      mesh: what the parameters are laid out over.
      step: the checkpoint's.
      adopted: what is noted of adapters that come from elsewhere, by name.
    """

    run_dir: Path
    config: RunConfig
    model: Model
    params: Params
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    mesh: Mesh
    step: int
    adopted: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def in_use(self) -> contextlib.AbstractContextManager[None]:
        """Inside, arrays are laid out as the run's are."""
        return use_layout(self.mesh, self.config.mesh.layout())

    @property
    def language_model(self) -> LanguageModel:
        """What continues texts and fills masks in them."""
        return LanguageModel(self.model, self.params, self.tokenizer, self.vocabulary)


def open_run(
    run_dir: str | Path,
    step: int | str = "best",
    layers: Sequence[str] = (),
    *,
    alone: bool = False,
    adapters: Sequence[str] = (),
    able: Able = has_task,
    as_arrays: bool = False,
) -> TrainedModel:
    """Restores the parameters of a run.

    Args:
      step: a number, "last", or "best" (lowest validation loss, or the last without any).
      layers: hardware files and overrides (`mesh.fsdp=8`, `distributed.auto=true`) over the run's
        configuration.
      alone: of several networks the main one by itself, what it borrows included. Nothing else is
        read: a teacher need not be there any more.
      adapters: to use it with: names of its own, the others then being left out; directories of
        other runs (RUN, RUN#NAME) or of PEFT's files, which come on top.
      able: what is wanted of the run. Where it lacks that, and an adapter's run has it, the task,
        the head and the tokenizer are that one's.
      as_arrays: for parameters to be computed with; else what training held in codes
        (`precision.frozen`) is in codes, which a model takes as well.

    Raises:
      UserError: no run there, no such step, a damaged checkpoint; no such adapter, or one of
        another model.
    """
    applied = apply(run_dir, adapters, able, step)
    run_dir = applied.run_dir
    config = applied.config(layers)
    hosts.connect(config.distributed)
    check_alike(config)
    config = applied.moved(config)
    manager = CheckpointManager(run_dir / "checkpoints", config.checkpoint)
    chosen = hosts.first_decides(lambda: manager.choose(applied.step))
    tokenizer = load_tokenizer(str(run_dir / "tokenizer"))
    model = make_model(config)
    mesh = mesh_here(config.mesh)
    start = stored_start(
        run_dir, manager.path(chosen), model, config, alone=alone, without=applied.left_out()
    )
    config, model, start = applied.onto(config, start)
    for line in applied.lines(config, start) if hosts.is_first() else ():
        _say(line)
    wanted = model.is_needed_alone if alone else everything
    with use_layout(mesh, config.mesh.layout()):
        if layers:
            check_patterns(config.mesh.parameters, abstract_params(model))
        folded, params = read_parameters(run_dir, start, model, mesh, wanted)
    params = decoded(params) if as_arrays else params
    if folded != model:
        methods: Any = {each.name: each.method for each in folded.adapters}
        model, config = folded, dataclasses.replace(config, peft=methods)
    if alone:
        params, model = model.own(params), dataclasses.replace(model, ties=(), others=())
    vocabulary = make_vocabulary(tokenizer, config.model.vocab_size)
    opened = (run_dir, config, model, params, tokenizer, vocabulary, mesh, chosen)
    return TrainedModel(*opened, start.adopted)


def stored_start(
    run_dir: Path,
    checkpoint: Path,
    model: Model,
    config: RunConfig,
    *,
    alone: bool = False,
    without: Sequence[str] = (),
) -> Start:
    """Where the parameters of a run lie: what it trained, and what its base holds.

    Args:
      alone: those of the main network, and what it borrows.
      without: patterns of parameters that are left there.

    Raises:
      UserError: not the parameters of this model, or of another base.
    """
    places = {name: init.run_dir for name, init in inits(config).items() if init is not None}
    moved = {name: place for name, place in places.items() if place.is_dir()}
    networks = {"", *(model.network_of(tie.of) for tie in model.ties)} if alone else None
    stored = index_run(
        run_dir, checkpoint, moved, verify=config.checkpoint.verify, networks=networks
    )
    start = InitConfig(from_=str(run_dir), cast=True)  # averages are float32, whatever they are of
    of_networks = model.is_needed_alone if alone else everything

    def wanted(path: str) -> bool:
        return of_networks(path) and not any(matches(pattern, path) for pattern in without)

    return plan_start(start, model, stored, (), is_whole=True, wanted=wanted)


def check_reads_no_tables(run_dir: str | Path, layers: Sequence[str]) -> None:
    """Refuses changes of the run's own tables where other files are read.

    Raises:
      UserError: names the way to say how those are read.
    """
    if not layers:
        return
    plain, changed = (read_config(Path(run_dir), given) for given in ((), layers))
    if _tables_of(plain) != _tables_of(changed):
        raise UserError(
            "the run's own tables are not read here",
            where="--with data.tables",
            expected="changes of the model, the mesh, data.batch_size, ...",
            got=", ".join(layer for layer in layers if "tables" in layer) or ", ".join(layers),
            fix="say how the input is read with --set, such as --set delimiter=';'",
        )


def _tables_of(config: RunConfig) -> list[TableSplits]:
    sources = config.streams.values() or [config]
    return [each.data.tables for each in sources if isinstance(each.data, TablesConfig)]


def mesh_here(config: MeshConfig) -> Mesh:
    """The run's mesh where this machine has the devices for it, else one of whole replicas."""
    devices = jax.device_count()
    try:
        return make_mesh(config)
    except UserError:
        print(
            f"the run's mesh does not fit the {devices} device{'s' * (devices > 1)} here: "
            "each holds all parameters",
            file=sys.stderr,
        )
        return make_mesh(MeshConfig())


# --- Evaluation ---------------------------------------------------------------------------------


def evaluate_run(
    run_dir: str | Path,
    *,
    split: str | None = None,
    step: int | str = "best",
    store: str | None = None,
    batches: int | None = None,
    stream: str | None = None,
    layers: Sequence[str] = (),
    adapters: Sequence[str] = (),
) -> dict[str, float]:
    """Loss and metrics of a run's checkpoint over a split, each row counted once.

    Args:
      split: the data's; None is the validation, or all rows where a model of elsewhere is
        evaluated on a table: that has no splits.
      step: a number, "last" or "best".
      store: another token store than the run's own, made with the same tokenizer.
      batches: at most so many, spread evenly over the split; None is all of it.
      stream: which of several the run is evaluated on; None is the first.
      layers: hardware files and overrides over the run's configuration.
      adapters: to use it with, as for `open_run`.

    Returns:
      `step`, `rows` (how many were read), and the numbers: `loss`, `loss/<objective>`,
      `perplexity`, `bits_per_byte`, `accuracy/<objective>`.

    Raises:
      UserError: no such run, step, split, stream or store, or less than one batch.
    """
    refuse_below(1, batches=batches)
    trained = open_run(run_dir, step, layers, adapters=adapters)
    chosen = choose_stream(trained.config, stream)
    check_length(trained.config.model, *chosen.data.longest, lead=trained.model.taken)
    if store is not None:
        chosen = dataclasses.replace(chosen, data=chosen.data.of_store(store))
    else:
        chosen = stream_from_here(trained.run_dir, trained.config, chosen)
    split = chosen.data.usual_split if split is None else split
    data, tokens_per_byte = open_split(chosen, split, trained.config.model, trained.tokenizer)
    check_lead(trained.model, chosen, data)
    size = chosen.data.batch_size
    made = evaluate_on(
        trained, data, chosen.objective, size, batches, tokens_per_byte, stream=stream
    )
    size = fitting_size(trained, size)
    rows = data.num_rows if batches is None else min(data.num_rows, batches * size)
    return {"step": trained.step, "rows": rows, **made.values}


def split_read(
    run_dir: str | Path,
    *,
    split: str | None = None,
    store: str | None = None,
    stream: str | None = None,
    layers: Sequence[str] = (),
    adapters: Sequence[str] = (),
) -> str | None:
    """The split that `evaluate_run` reads where it is given the same; None where its data have no
    splits."""
    if split is not None:
        return split
    config = apply(run_dir, adapters, has_task).config(layers)
    data = choose_stream(config, stream).data
    return (data if store is None else data.of_store(store)).usual_split


def choose_stream(config: RunConfig, name: str | None) -> StreamConfig:
    """The stream of this name; without, the first.

    Raises:
      UserError: there is none of that name.
    """
    streams = config.all_streams
    if name is None:
        return next(iter(streams.values()))
    if name not in streams:
        raise UserError(
            "the run has no such stream",
            where="--stream",
            expected="one of " + ", ".join(filter(None, streams)) if any(streams) else "none",
            got=name,
        )
    return streams[name]


def stream_from_here(run_dir: Path, config: RunConfig, stream: StreamConfig) -> StreamConfig:
    """A stream of a run with paths that lead to its data from the current directory."""
    names = [name for name, each in config.streams.items() if each is stream]
    key = f"streams.{names[0]}.data" if names else "data"
    say = _say if hosts.is_first() else _say_nothing
    return dataclasses.replace(stream, data=data_from_here(run_dir, stream.data, say, key))


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _say_nothing(text: str) -> None:
    del text


def evaluate_on(
    trained: TrainedModel,
    data: Data,
    objective: Objective,
    batch_size: int,
    batches: int | None = None,
    tokens_per_byte: float | None = None,
    *,
    stream: str | None = None,
    show: bool = True,
) -> Evaluation:
    """Loss, metrics and predictions of a trained model over data; see `evaluate_run`. Masks are
    those of the stream's validation in training."""
    number = 0 if stream is None else list(trained.config.all_streams).index(stream)
    seed = numbered_seed(trained.config.train.seed, number)
    step = make_eval_step(trained.model, objective, trained.vocabulary, seed=seed)
    rows = DataPass(
        data=data,
        mesh=trained.mesh,
        batch_size=fitting_size(trained, batch_size),
        limit=batches,
        progress="validate" if show else None,
    )
    with trained.in_use():
        step = jax.jit(step, out_shardings=replicated(trained.mesh))
        return evaluate(step, objective, trained.params, rows, tokens_per_byte)


def fitting_size(trained: TrainedModel, batch_size: int) -> int:
    """A batch size, rounded up to what divides over the devices there are now."""
    with trained.in_use():
        shards = batch_shards(trained.mesh)
    return -(-batch_size // shards) * shards


# --- Language models ----------------------------------------------------------------------------


def generate_texts(
    run_dir: str | Path,
    prompts: Sequence[str],
    sampling: Sampling = SAMPLING,
    step: int | str = "best",
    layers: Sequence[str] = (),
    writing: Writing = WRITING,
    on_piece: OnPiece | None = None,
    adapters: Sequence[str] = (),
) -> list[Text]:
    """What a run writes after each prompt, or for each; see `generate.texts.write_texts`.

    Args:
      writing: beams and choices; what begins and ends texts is the run's.
      adapters: to use it with, as for `open_run`.
    """
    writer = open_writer(run_dir, sampling, step, layers, writing, adapters)
    tell_special(writer.trained.tokenizer.special_in(prompts))
    return writer.write(prompts, on_piece)


@dataclass(frozen=True)
class TextWriter:
    """A run that is ready to write texts.

    Attributes:
      trained: the run, with every layer by itself.
      sampling, writing: how it writes.
    """

    trained: TrainedModel
    sampling: Sampling
    writing: Writing

    def write(
        self,
        prompts: Sequence[str],
        on_piece: OnPiece | None = None,
        first: int = 0,
        adapter: Sequence[int] | None = None,
    ) -> list[Text]:
        """As `generate.texts.write_texts`."""
        with self.trained.in_use():
            return write_texts(
                *(self.trained.language_model, tuple(prompts), self.sampling),
                *(self.writing, on_piece, first, adapter),
            )

    def check(self, prompts: Sequence[str], places: Sequence[str]) -> None:
        """Refuses a prompt that leaves no room for the text.

        Raises:
          UserError: names its place.
        """
        model = self.trained.model
        ids = prompt_ids(self.trained.language_model, prompts, self.writing.start)
        for row, place in zip(ids, places):
            try:
                if model.config.encoder_decoder:
                    check_source(len(row), model.max_positions)
                else:
                    length = self.writing.trained_length
                    self.sampling.fitted(len(row), model.max_positions, length)
            except UserError as error:
                told = {"expected": error.expected, "got": error.got, "fix": error.fix}
                raise UserError(error.what, where=place, **told) from None


def open_writer(
    run_dir: str | Path,
    sampling: Sampling = SAMPLING,
    step: int | str = "best",
    layers: Sequence[str] = (),
    writing: Writing = WRITING,
    adapters: Sequence[str] = (),
) -> TextWriter:
    """Restores a run that is to write; arguments are those of `generate_texts`."""
    trained = open_run(run_dir, step, layers, alone=True, adapters=adapters, able=writes)
    return writer_of(trained, sampling, writing)


def writer_of(trained: TrainedModel, sampling: Sampling, writing: Writing) -> TextWriter:
    """A run that was restored, ready to write. Raises UserError: it cannot write."""
    _check_head(trained, "continue")
    with trained.in_use():
        model, params = apart(trained.model, trained.params)
    data = trained.config.data
    length = data.trained_length if data is not None else None
    writing = dataclasses.replace(
        writing,
        start=tuple(_document_start(trained)),
        stop_ids=tuple(stop_ids(trained.run_dir, trained.vocabulary.size)),
        trained_length=None if trained.model.config.encoder_decoder else length,
    )
    return TextWriter(dataclasses.replace(trained, model=model, params=params), sampling, writing)


def open_conversation(
    run_dir: str | Path,
    sampling: Sampling = SAMPLING,
    *,
    system: str | None = None,
    template: str | None = None,
    window: int | None = None,
    step: int | str = "best",
    layers: Sequence[str] = (),
    adapters: Sequence[str] = (),
) -> tuple[TrainedModel, Conversation]:
    """A run to talk with; call `ask` of the conversation inside the model's `in_use`.

    Args:
      system: what stands before the conversation.
      template: chatml or a file, instead of the run's own.
      window: most tokens of it; None is the length of rows in training, or 4096 where that is not
        known, as far as the model has positions.
      adapters: to use it with, as for `open_run`.

    Raises:
      UserError: a run that cannot write or whose tokenizer has no template; no such window.
    """
    trained = open_run(run_dir, step, layers, alone=True, adapters=adapters, able=writes)
    _check_head(trained, "continue")
    model, most = trained.model.config, trained.model.max_positions
    if model.encoder_decoder:
        raise UserError(
            "an encoder-decoder cannot be talked to",
            where=run_dir,
            expected="a causal model of one stack",
            got=f"model.name={model.name}",
            fix="jaxssl generate RUN TEXT",
        )
    if window is not None and not 3 <= window <= most:
        raise UserError(
            "no such window",
            where="window (--window)",
            expected=f"3 to model.max_positions={model.max_positions}"
            + (f", less {trained.model.taken} of adapters" if trained.model.taken else ""),
            got=window,
        )
    size = min(_trained_window(trained.config), most) if window is None else window
    tokenizer, vocabulary = with_template(trained.tokenizer, template), trained.vocabulary
    ends = stop_ids(trained.run_dir, vocabulary.size) or (vocabulary.document_end,)
    asked = LanguageModel(trained.model, trained.params, tokenizer, vocabulary)
    return trained, Conversation(asked, sampling, size, ends, system)


def _trained_window(config: RunConfig) -> int:
    """How long rows were in training, if that is known."""
    data = config.data
    if config.imported is not None or data is None:
        return WINDOW
    return data.longest[0] if "chat" in config.tasks else data.trained_length or WINDOW


def _document_start(trained: TrainedModel) -> list[int]:
    """What begins a document: nothing in a token store, and with models of elsewhere what their
    tokenizer's template puts there."""
    own = trained.tokenizer.template(False)
    return own[0] if own is not None and trained.config.imported is not None else []


def fill_masks(
    run_dir: str | Path,
    texts: Sequence[str],
    top: int = 5,
    step: int | str = "best",
    layers: Sequence[str] = (),
    adapters: Sequence[str] = (),
) -> list[list[list[dict[str, Any]]]]:
    """For each text, for each mask in it, the likeliest tokens: `{"token", "probability"}`."""
    trained = open_run(run_dir, step, layers, alone=True, adapters=adapters, able=fills)
    _check_head(trained, "fill")
    mask = mask_text(trained.tokenizer, trained.vocabulary)
    for text in texts:
        if mask not in text:
            other = re.search(r"\[mask\]|<mask>|\[\[mask\]\]|_{2,}|\{mask\}|\bMASK\b", text, re.I)
            raise UserError(
                "there is nothing to fill",
                where=repr(text),
                expected=f"{mask} in the text, as this run's tokenizer spells a mask",
                got=repr(other[0]) if other else "no mask",
                fix=f"write {mask} where a word is wanted",
            )
    tell_special([x for x in trained.tokenizer.special_in(texts) if x != mask])
    with trained.in_use():
        return [fill_text(trained.language_model, text, top) for text in texts]


def tell_special(tokens: Sequence[str]) -> None:
    """Says what `transformers` would read otherwise."""
    if tokens and hosts.is_first():
        print(
            f"note: {', '.join(tokens)} in a text is read as these characters, not as the special "
            "token",
            file=sys.stderr,
        )


def _check_head(trained: TrainedModel, use: Use) -> None:
    if trained.model.can(use):
        return
    able = [verb for other, verb in VERBS.items() if trained.model.can(other)]
    known = {"continue": "causal_lm", "fill": "masked_lm"}
    raise UserError(
        f"this run cannot {VERBS[use]}",
        where="the run's objective",
        expected=f"a run trained to {use} texts, as with {known[use]}",
        got=trained.config.purpose,
        fix=f"try `jaxssl {(*able, 'embed')[0]}`",
    )

"""What an adaptation is asked for, and what of it is refused before anything is made."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxssl.core.bounds import refuse_below
from jaxssl.core.errors import UserError
from jaxssl.data.config import ImportedData, StoreConfig
from jaxssl.run.config import RunConfig, StreamConfig

REPLAY_SHARE = 0.2
"""Of the steps, where replay is asked for and nothing else is said."""
ROTARY_BASES = ("rotary_theta", "global_theta")
"""The fields of models that say the base of rotary frequencies; ModernBERT's is that of its global
layers, as its own longer texts have it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `jaxssl adapt` was given.

    Attributes:
      run: the run to go on from.
      out: the run to make.
      corpus: files, folders or patterns of text, or what `source.name` takes in their place.
      stream: which of the run's streams of text is gone on with, where they differ.
      prepare: `a.b=c` changes of how the corpus is prepared.
      store: a token store in the place of a corpus.
      replay: a token store of the old domain to train on, too; None is the run's own.
      replay_share: of the steps; None replays nothing, unless `replay` is given.
      pieces: how many further pieces to learn; None keeps the vocabulary.
      length: of the rows, in tokens; None keeps it.
      positions: how a longer table of learned positions begins.
      rotary_base: of rotary frequencies; None keeps it.
      batches: at most so many of each held-out split, before and after; None is all.
      changes: recipes and `a.b=c` changes of the run that is made.
    """

    run: Path
    out: Path
    corpus: tuple[str, ...] = ()
    stream: str | None = None
    prepare: tuple[str, ...] = ()
    store: str | None = None
    replay: str | None = None
    replay_share: float | None = None
    pieces: int | None = None
    length: int | None = None
    positions: Literal["tile", "stretch"] = "tile"
    rotary_base: float | None = None
    batches: int | None = None
    changes: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Of the steps that replay the old domain."""
        if self.replay_share is not None:
            return self.replay_share
        return REPLAY_SHARE if self.replay is not None else 0.0

    @property
    def beside(self) -> Path:
        """The folder of what is made for the run: its token store, its tokenizer."""
        out = self.out if self.out.name not in ("", "..") else self.out.resolve()
        return out.with_name(f"{out.name}-data")

    def check(self) -> None:
        """Refuses options that do not go together.

        Raises:
          UserError: names them.
        """
        refuse_below(1, extend_vocabulary=self.pieces, length=self.length, batches=self.batches)
        if bool(self.corpus) == (self.store is not None):
            raise UserError(
                "a corpus is needed, or a token store of it",
                where="--corpus, --store",
                expected="one of them",
                got="both" if self.corpus else "neither",
                fix="give --corpus FILES, or --store STORE that `jaxssl prepare` has made",
            )
        unread = {"--extend-vocabulary": self.pieces, "--set": self.prepare or None}
        given = [name for name, value in unread.items() if value is not None]
        if self.store is not None and given:
            raise UserError(
                "a token store is read as it is",
                where=", ".join(given),
                expected="--corpus, of which a store is made",
                got=f"--store {self.store}",
                fix="give the text with --corpus",
            )
        if not 0 <= self.share < 1:
            raise UserError(
                "a share of the steps is out of range",
                where="--replay-share",
                expected="at least 0 and below 1",
                got=self.share,
            )
        if self.rotary_base is not None and not self.rotary_base > 0:
            raise UserError(
                "a number is out of range",
                where="--rotary-base",
                expected="above 0",
                got=self.rotary_base,
            )


def text_streams(config: RunConfig) -> dict[str, StreamConfig]:
    """The streams of a run that have text without labels, by name; of a model that was imported the
    objective of its head.

    Raises:
      UserError: it has none.
    """
    if config.imported is not None and config.objective is None:
        config.trained_objective  # says what it is  # noqa: B018
    found = {
        name: stream
        for name, stream in config.all_streams.items()
        if not stream.objective.named_tasks and isinstance(stream.data, StoreConfig | ImportedData)
    }
    if found:
        return found
    raise UserError(
        "this run was not pretrained: it has labels alone",
        where=f"{config.out}, objective",
        expected="a run with a self-supervised objective over a token store",
        got=config.purpose,
        fix=f"adapt what it started from, {config.init.from_}, and fine-tune that"
        if config.init is not None
        else "adapt a pretrained run, and fine-tune that",
    )


def old_stream(config: RunConfig, name: str | None = None) -> tuple[str, StreamConfig]:
    """The stream of text that is gone on with, and its name: the one that is named, or the first,
    if they differ in their text alone (as those of an adaptation do).

    Raises:
      UserError: there is none, none of that name, or several that differ.
    """
    found = text_streams(config)
    if name is not None and name not in found:
        raise UserError(
            "the run has no such stream of text",
            where="--stream",
            expected="one of " + ", ".join(found) if any(found) else "none: it has one alone",
            got=name,
        )
    first = next(iter(found))
    if name is None and not all(is_alike(each, found[first]) for each in found.values()):
        raise UserError(
            "the run has several streams of text, and one of them can be adapted",
            where=f"{config.out}, streams",
            expected="the name of one",
            got=", ".join(f"{name} ({each.objective.name})" for name, each in found.items()),
            fix=f"give --stream {first}; all of them go on with a recipe that has them, over the "
            f"new text: jaxssl pretrain RECIPE init.from={config.out}",
        )
    chosen = first if name is None else name
    return chosen, found[chosen]


def is_alike(one: StreamConfig, other: StreamConfig) -> bool:
    """Whether two streams of text are the same but for the text, and how much of it."""
    return one.objective == other.objective and one.data.of_store("") == other.data.of_store("")


def check_model(request: Request, config: RunConfig) -> None:
    """Refuses what the run's model does not allow.

    Raises:
      UserError: rows that are not longer, or a rotary base where nothing turns.
    """
    data = old_stream(config, request.stream)[1].data
    if request.length is not None and request.length < data.longest[0]:
        raise UserError(
            "rows may be longer than those of the run, not shorter",
            where="--length",
            expected=f"at least {data.longest[0]}, the run's {data.longest[1]}",
            got=request.length,
            fix="leave out --length; shorter rows are set by data.sequence_length=...",
        )
    has_table = config.model.body().position_rows > 0
    if request.positions != "tile" and (request.length is None or not has_table):
        raise UserError(
            "there is no table of positions to make longer",
            where="--positions",
            expected="--length, and a model with learned positions" if has_table else "tile",
            got=f"{request.positions}, with {config.model.name}"
            + (" and no --length" if request.length is None else ""),
            fix="give --length" if has_table else "leave out --positions",
        )
    if request.rotary_base is not None and rotary_field(config) is None:
        raise UserError(
            "this model has no rotary positions",
            where="--rotary-base",
            expected="a model such as llama, qwen3 or modernbert",
            got=config.model.name,
            fix="leave out --rotary-base; learned positions are resized by --length",
        )


def rotary_field(config: RunConfig) -> str | None:
    """The field of the run's model that has the base of rotary frequencies; None without any."""
    fields = {field.name for field in dataclasses.fields(config.model)}
    return next((name for name in ROTARY_BASES if name in fields), None)

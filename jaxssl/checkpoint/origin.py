"""What a run goes on from: another run, or a Hugging Face directory. Opened once, asked after."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxssl.checkpoint.hf.directory import CONFIG, TASK_SCOPES, open_model
from jaxssl.checkpoint.hf.places import mistaken
from jaxssl.checkpoint.init_config import InitConfig
from jaxssl.checkpoint.manager import CheckpointConfig, CheckpointManager
from jaxssl.checkpoint.parameter_index import (
    CheckpointSource,
    HfSource,
    ParameterIndex,
    ParameterSource,
    check_base,
    index_hf,
    index_run,
    read_base,
)
from jaxssl.core import config as configuration
from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.paths import looked_up, suggestion
from jaxssl.core.seal import check_seal
from jaxssl.models.heads import HEADS
from jaxssl.parallel import hosts

RUN_CONFIG = "config.yaml"


class Origin(ABC):
    """A directory with a model, its configuration and its tokenizer."""

    def __init__(self, path: Path):
        self.path = path

    @property
    @abstractmethod
    def tokenizer(self) -> Path:
        """The directory of its tokenizer."""

    @abstractmethod
    def model(self, network: str = "") -> dict[str, Any]:
        """The configuration of its model, in one segment, as recipes have it.

        Args:
          network: which of its networks; empty is the main one.

        Raises:
          UserError: it has none of that name.
        """

    @abstractmethod
    def open(
        self, init: InitConfig, checkpoint: CheckpointConfig, noted: Mapping[str, Any] | None
    ) -> tuple[ParameterSource, ParameterIndex]:
        """What holds its parameters, and these; nothing is read.

        Args:
          noted: what a run that has saved something noted of where it started; it starts there
            again, whichever step is the best now.

        Raises:
          UserError: no such checkpoint, or another than the one that was noted.
        """

    @abstractmethod
    def heads(self, stored: ParameterIndex, body: Sequence[str]) -> list[str]:
        """Top-level names of the heads that are stored, which a run that has no use for them may
        leave behind unasked.

        Args:
          body: top-level names of what is no head.
        """


class RunOrigin(Origin):
    """A run directory of ours."""

    def heads(self, stored: ParameterIndex, body: Sequence[str]) -> list[str]:
        return sorted({name.split("/")[0] for name in stored.pieces} - {*body})

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    def model(self, network: str = "") -> dict[str, Any]:
        config = configuration.read_yaml(self.path / RUN_CONFIG)
        others = config.get("networks") or {}
        if network and network not in others:
            raise _no_such_network(self.path, network, others)
        return {**(others[network] if network else config)["model"], "segments": []}

    def open(
        self, init: InitConfig, checkpoint: CheckpointConfig, noted: Mapping[str, Any] | None
    ) -> tuple[ParameterSource, ParameterIndex]:
        manager = CheckpointManager(self.path / "checkpoints", checkpoint)
        wanted = init.chosen if noted is None else noted["step"]
        step = hosts.first_decides(lambda: manager.choose(wanted))
        source = CheckpointSource(manager.path(step))
        if noted is not None:
            check_base(noted, source)
        there = {name for name, x in read_base(self.path).items() if Path(x["run"]).is_dir()}
        needed = {"", init.network or "", *there}  # another's base, a teacher say, may be gone
        stored = index_run(self.path, source.path, verify=checkpoint.verify, networks=needed)
        return source, stored


class HfOrigin(Origin):
    """A directory of Hugging Face's, with config.json and safetensors."""

    def heads(self, stored: ParameterIndex, body: Sequence[str]) -> list[str]:
        known = {*HEADS, *TASK_SCOPES, "pooler"}  # a tensor that is no parameter has other names
        return sorted({name.split("/")[0] for name in stored.pieces} & known)

    @property
    def tokenizer(self) -> Path:
        return self.path

    def model(self, network: str = "") -> dict[str, Any]:
        if network:
            raise _no_such_network(self.path, network, ())
        return configuration.to_dict(open_model(self.path).config)

    def open(
        self, init: InitConfig, checkpoint: CheckpointConfig, noted: Mapping[str, Any] | None
    ) -> tuple[ParameterSource, ParameterIndex]:
        for where, wanted, got in (
            ("init.optimizer", "reset", init.optimizer),
            ("init.step", "best", init.step),
        ):
            if got != wanted:
                raise UserError(
                    "a Hugging Face directory has neither steps nor an optimizer's state",
                    where=where,
                    expected=wanted,
                    got=got,
                )
        source = HfSource(self.path)
        if noted is not None:
            check_base(noted, source)
        return source, index_hf(self.path)


def _no_such_network(path: Path, network: str, known: Iterable[str]) -> UserError:
    return UserError(
        "there is no such network in what is started from",
        where=f"init.network, {path}",
        expected=", ".join(known) or "null, the only one",
        got=network,
        fix=did_you_mean(network, known),
    )


def find_origin(path: Path) -> Origin | None:
    """What a directory is, or None where it is neither."""
    if (path / RUN_CONFIG).is_file():
        return RunOrigin(path)
    return HfOrigin(path) if (path / CONFIG).is_file() else None


def open_origin(path: Path) -> Origin:
    """What `init.from` names.

    Raises:
      UserError: it is neither a run nor a Hugging Face directory.
    """
    origin = find_origin(path)
    if origin is None:
        what = mistaken(path)
        got, fix = what or (looked_up(path), suggestion(path))
        if fix is None and len(path.parts) <= 2 and not path.exists():
            fix = f"of a model of the hub, make a run first: jaxssl import {path} NEW_DIRECTORY"
        raise UserError(
            "not a run to start from",
            where="init.from",
            expected="a run directory, with config.yaml and checkpoints/, or Hugging Face's, with "
            "config.json",
            got=f"{path}, {got}" if what else (f"{path}" if path.exists() else got),
            fix=fix or _other_place(path),
        )
    check_seal(path)
    return origin


def _other_place(path: Path) -> str:
    """What to do about a path that is no run."""
    if path.exists():
        return "give the directory that `out` named when the run was trained: init.from=PATH"
    start = "" if path.is_absolute() else "a relative path starts at the current directory: "
    return f"{start}init.from=PATH; a model of the hub is made a run by jaxssl import NAME RUN"

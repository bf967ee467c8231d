"""Directories that are given as models and are something else: what they are, and what to give."""

import re
from pathlib import Path

from jaxssl.core.errors import UserError
from jaxssl.core.json_files import read_json

ADAPTER = "adapter_config.json"
CONFIG = "config.json"
RUN_CONFIG = "config.yaml"


def mistaken(path: Path) -> tuple[str, str] | None:
    """(what a directory without a model of its own is, what to give in its place) where that is
    known; None for others, and for models."""
    if path.is_file():
        return "a file", f"give its directory: {path.parent}"
    if (path / ADAPTER).is_file():
        return _adapter(path)
    if (path / CONFIG).is_file() or not path.is_dir():
        return None
    if (path / RUN_CONFIG).is_file():
        return "a run directory", "it is a run already: give it as RUN, or as init.from"
    return _of_cache(path) or _of_trainer(path) or _of_models(path)


def _adapter(path: Path) -> tuple[str, str]:
    try:
        given = read_json(path / ADAPTER, what="an adapter's file is damaged", fix="")
        base, kind = given["base_model_name_or_path"], given.get("peft_type", "PEFT")
    except (UserError, KeyError):
        base, kind = "a model that it does not name", "PEFT"
    fix = f"make a run of both: jaxssl import {path} RUN"
    if kind not in ("LORA", "IA3"):
        fix = (
            f"merge it where peft is installed, AutoPeftModelForCausalLM (or the task's class)"
            f".from_pretrained({str(path)!r}).merge_and_unload().save_pretrained(OUT), and give OUT"
        )
    return (
        f"an adapter ({kind}) of {base}, not a whole model",
        f"{fix}; without what it learnt: {base}",
    )


def _of_cache(path: Path) -> tuple[str, str] | None:
    """The hub's cache: all of it, one model with its snapshots, or the snapshots."""
    if models := sorted(path.glob("models--*/snapshots")):
        found = [place for each in models if (place := _snapshot(each)) is not None]
        names = ", ".join(each.parent.name for each in models[:4])
        return f"a cache of the hub, with {names}", f"give a snapshot: {_listed(found)}"
    root = path if path.name == "snapshots" else path / "snapshots"
    if not root.is_dir() or (place := _snapshot(root)) is None:
        return None
    return "a model's place in the hub's cache, with its snapshots", f"give the snapshot: {place}"


def _snapshot(snapshots: Path) -> Path | None:
    """The snapshot that the cache's main branch is at, else the newest one."""
    there = [each for each in snapshots.iterdir() if each.is_dir()]
    main = snapshots.parent / "refs" / "main"
    if main.is_file() and (named := snapshots / main.read_text().strip()) in there:
        return named
    return max(there, key=lambda each: each.stat().st_mtime, default=None)


def _of_trainer(path: Path) -> tuple[str, str] | None:
    """What the Trainer of `transformers` writes into: a checkpoint of each so many steps."""
    steps = {
        int(m[1]): p for p in path.iterdir() if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))
    }
    if not steps:
        return None
    last = steps[max(steps)]
    fix = f"give a checkpoint; the last one is {last}"
    try:
        state = read_json(last / "trainer_state.json", what="", fix="")
        best = path / Path(str(state["best_model_checkpoint"])).name
        if best.is_dir():
            fix += f", the best one, as its trainer_state.json says, {best}"
    except (UserError, KeyError):
        pass  # it was not asked to choose one
    return f"a Trainer's output, with {len(steps)} checkpoints", fix


def _of_models(path: Path) -> tuple[str, str] | None:
    """A directory of models, or of runs."""
    models = sorted(each.parent for name in (CONFIG, RUN_CONFIG) for each in path.glob(f"*/{name}"))
    if not models:
        return None
    return "a directory with others inside", f"give one of those: {_listed(models)}"


def _listed(paths: list[Path]) -> str:
    return ", ".join(map(str, paths[:4])) + ", ..." * (len(paths) > 4)

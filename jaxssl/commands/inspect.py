"""What a path holds: a run, a token store, a checkpoint step, a tokenizer or an adapter, in a few
lines."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxssl.commands import inspect_adapter
from jaxssl.core.errors import UserError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model")


def inspect_path(
    path: Path,
    *,
    verify: bool = False,
    adapters: Sequence[str] = (),
    layers: Sequence[str] = (),
    devices: int | None = None,
) -> Iterator[str]:
    """Lines that describe `path`; `verify` also compares every file with its checksum.

    Args:
      adapters: names of a run's adapters, which alone are described.
      layers: hardware files and overrides over a run's configuration, to see how it would lie.
      devices: of the mesh that a run is laid out on; None for those that it was trained on.

    Raises:
      UserError: it is none of the five, or it is damaged; the run has no such adapter, or does not
        fit the mesh.
    """
    if layers or devices is not None:
        _check_laid_out(path, adapters)
    if adapters:
        _check_run(path, verify)
        yield from inspect_adapter.of_run(path, adapters)
        return
    yield from _described(path, verify, layers, devices)
    if verify:
        yield f"verified: {path}: every file that has a checksum matches it"


def _check_laid_out(path: Path, adapters: Sequence[str]) -> None:
    """Refuses a mesh for what is no run, or for adapters alone. Raises UserError."""
    if adapters or not (path / "run.json").is_file():
        raise UserError(
            "a run as a whole is laid out on a mesh",
            where="--with, --devices",
            expected="a run directory, without --adapter",
            got=f"{path}, and --adapter {' '.join(adapters)}" if adapters else path,
        )


def _described(
    path: Path, verify: bool, layers: Sequence[str], devices: int | None
) -> Iterator[str]:
    if (path / "run.json").is_file():
        return _run(path, verify, layers, devices)
    if path.name.isdigit() and (path / "state").exists():
        return _checkpoint(path, verify)
    if (path / "manifest.json").is_file():
        return _store(path, verify)
    if inspect_adapter.is_peft(path):
        _check_verify(path, verify, "an adapter of PEFT's")
        return inspect_adapter.peft_files(path)
    if path.suffix == ".model" or any((path / name).is_file() for name in TOKENIZER_FILES):
        return _tokenizer(path, verify)
    raise UserError(
        "nothing to inspect",
        where=path,
        expected="a run directory, a token store, a checkpoint step (RUN/checkpoints/1000), a "
        "tokenizer directory, or PEFT's files",
        got="no such path" if not path.exists() else "none of these",
    )


def _check_run(path: Path, verify: bool) -> None:
    """Refuses adapters of what is no run. Raises UserError."""
    if inspect_adapter.is_peft(path):
        raise UserError(
            "PEFT's files hold one adapter, which has no name",
            where=f"--adapter, {path}",
            expected="a run that trained adapters",
            got="PEFT's files",
            fix=f"jaxssl inspect {path}",
        )
    _check_verify(path, verify, "an adapter of a run")


def _check_verify(path: Path, verify: bool, what: str) -> None:
    """Refuses to verify what has no checksums. Raises UserError."""
    if verify:
        raise UserError(
            f"{what} has no checksums to compare with",
            where=path,
            expected="a run, a token store or a checkpoint with --verify",
            got=what,
            fix=f"jaxssl inspect {path}",
        )


def _tokenizer(path: Path, verify: bool) -> Iterator[str]:
    from jaxssl.data.tokenizer.loading import load_tokenizer

    _check_verify(path, verify, "a tokenizer")
    tokenizer = load_tokenizer(path)
    roles = {role: id_ for role, id_ in tokenizer.special_ids.items() if id_ is not None}
    yield f"tokenizer {path}: {tokenizer.vocab_size:,} pieces"
    yield f"  special tokens: { ({role: tokenizer.token(id_) for role, id_ in roles.items()}) }"
    yield f"  their ids: {roles}"
    yield f"  fingerprint: {tokenizer.fingerprint}"


def _store(path: Path, verify: bool) -> Iterator[str]:
    from jaxssl.core.seal import check_seal
    from jaxssl.data.corpus.skipped import described
    from jaxssl.data.store.store import TokenStore

    store = TokenStore.open(path, verify=verify)
    if verify and not check_seal(path):
        yield f"  not compared: {path}/manifest.json and its tokenizer, which have no checksum"
    roles = {role: id_ for role, id_ in store.special_ids.items() if id_ is not None}
    yield f"token store {path}" + (", all checksums match" if verify else "")
    yield f"  tokenizer: {store.manifest.tokenizer['name']}, {store.vocab_size:,} pieces, {roles}"
    yield f"  {'split':<12}{'documents':>12}{'sentences':>12}{'tokens':>16}{'bytes':>16}"
    for name, split in store.manifest.splits.items():
        yield (
            f"  {name:<12}{split.documents:>12,}{split.sentences:>12,}{split.tokens:>16,}"
            f"{split.bytes:>16,}"
        )
    yield from (f"  {line}" for line in store.manifest.about_marks())
    good = sum(split.documents for split in store.manifest.splits.values())
    yield from (f"  {line}" for line in described(store.manifest.set_aside, good))


def _checkpoint(path: Path, verify: bool) -> Iterator[str]:
    from jaxssl.checkpoint import manifest

    meta = manifest.read_meta(path)
    if verify:
        manifest.verify(path)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    seal = (
        "all checksums match" if verify else "sealed" if manifest.is_sealed(path) else "unfinished"
    )
    yield f"checkpoint {path}: step {meta['step']}, {size / 2**20:,.1f} MiB, {seal}"
    for name, value in meta.items():
        yield f"  {name}: {value}"


def _run(path: Path, verify: bool, layers: Sequence[str], devices: int | None) -> Iterator[str]:
    from jaxssl.checkpoint.manager import CheckpointManager
    from jaxssl.commands import inspect_layout
    from jaxssl.core.seal import check_seal
    from jaxssl.run.networks import make_model
    from jaxssl.run.plugins import read_plugins
    from jaxssl.run.recipes import read_config
    from jaxssl.train.metrics_file import read_metrics

    config = read_config(path, layers)
    manager = CheckpointManager(path / "checkpoints", config.checkpoint)
    if verify:
        _check_verifiable(path, manager.steps())
        if not check_seal(path):
            yield f"  not compared: {path}/config.yaml and its tokenizer, which have no checksum"
    yield f"run {path}: {config.model.name}, {config.purpose}"
    for plugin in read_plugins(path):
        yield f"  plugin {plugin.given}: {', '.join(plugin.registers)}; SHA-256 {plugin.sha256}"
    for step in manager.steps():
        yield from (f"  {line}" for line in _checkpoint(manager.path(step), verify))
    best = manager.best()
    if best is not None:
        yield f"  best step by {config.chosen_by}: {best}"
    rows = [row for row in read_metrics(path) if row["kind"] == "validation"]
    if rows:
        yield f"  last validation: {json.dumps(rows[-1])}"
    yield from inspect_layout.lines(path, config, make_model(config), devices)


def _check_verifiable(run_dir: Path, steps: list[int]) -> None:
    """Refuses to say of a run without a checkpoint that it is verified."""
    if not steps:
        raise UserError(
            "the run has no checkpoint to verify",
            where=run_dir / "checkpoints",
            expected="at least one finished step",
            got="none",
            fix="start the run again with its configuration; it goes on",
        )

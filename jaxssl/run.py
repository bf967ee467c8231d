"""One run: its whole configuration, and how its parts are built and wired.

This is the only module that sees everything. The command line calls the functions here; so can you:

    from jaxssl import run
    config = run.load_config(["configs/pretrain/bert-tiny.yaml"], ["data.store=stores/wiki"])
    run.pretrain(config)
"""

import dataclasses
import json
import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxssl.checkpoint.manager import CheckpointConfig, CheckpointManager
from jaxssl.core import config as configuration
from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write, sha256
from jaxssl.core.names import flatten
from jaxssl.core.precision import Precision
from jaxssl.core.types import Params, Vocabulary
from jaxssl.data.loader import DataConfig, open_rows
from jaxssl.data.store import TokenStore, check_tokenizer, check_vocabulary
from jaxssl.data.tokenizer import Tokenizer, load_tokenizer
from jaxssl.generate.decode import Sampling
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model, ModelConfig, check_length, num_parameters
from jaxssl.objectives.combine import ObjectiveConfig
from jaxssl.optim.adamw import AdamW, make_optimizer
from jaxssl.parallel import hosts
from jaxssl.parallel.mesh import MeshConfig, batch_shards, check_batch, make_mesh
from jaxssl.train.evaluation import EvaluationConfig, evaluate
from jaxssl.train.loop import LoggingConfig, Outcome, Parts, Settings, TrainConfig, fit
from jaxssl.train.profile import ProfileConfig
from jaxssl.train.samples import SamplesConfig, continue_texts, fill_text
from jaxssl.train.state import abstract_state, make_init
from jaxssl.train.step import make_eval_step
from jaxssl.train.watchdog import WatchdogConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run."""

    out: str
    """The run directory: configuration, checkpoints, metrics and report. Run again, it resumes."""
    model: ModelConfig
    """The network."""
    objective: ObjectiveConfig
    """What it is trained to do."""
    data: DataConfig
    """What it reads."""
    optimizer: AdamW = AdamW()
    """How it is updated."""
    train: TrainConfig = TrainConfig()
    """How long, and what happens when a step goes wrong."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Validation during training."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """What is saved."""
    precision: Precision = Precision()
    """Which dtype holds what."""
    mesh: MeshConfig = MeshConfig()
    """How devices are arranged."""
    distributed: hosts.DistributedConfig = hosts.DistributedConfig()
    """How several processes find each other."""
    logging: LoggingConfig = LoggingConfig()
    """What is written down."""
    samples: SamplesConfig = SamplesConfig()
    """What the model is asked at each validation."""
    watchdog: WatchdogConfig = WatchdogConfig()
    """When a step counts as hung."""
    profile: ProfileConfig = ProfileConfig()
    """Steps to trace."""


MAY_CHANGE = (
    "out",
    "distributed",
    "evaluation",
    "checkpoint",
    "logging",
    "samples",
    "watchdog",
    "profile",
    "mesh",
)
"""Sections of a configuration that a run may be resumed with changes in."""
MAY_CHANGE_KEYS = (
    "train/accumulation",
    "train/not_finite",
    "train/not_finite_limit",
    "data/prefetch",
)
"""The same for single keys of the other sections."""


def load_config(recipes: Iterable[str | Path], overrides: Iterable[str] = ()) -> RunConfig:
    """Recipes (later ones win) and `a.b=c` overrides as a validated configuration."""
    return configuration.load(RunConfig, [find_recipe(recipe) for recipe in recipes], overrides)


def find_recipe(name: str | Path) -> Path:
    """A recipe's path: a file, or the name of one that comes with jaxssl (`pretrain/bert-tiny`).

    Raises:
      UserError: lists the recipes there are.
    """
    from jaxssl.core.errors import did_you_mean

    if Path(name).is_file():
        return Path(name)
    package = Path(__file__).parent
    roots = [root for root in (package / "configs", package.parent / "configs") if root.is_dir()]
    known = {
        str(path.relative_to(root).with_suffix("")): path
        for root in roots
        for path in sorted(root.rglob("*.yaml"))
    }
    wanted = str(name).removesuffix(".yaml").removeprefix("configs/")
    if wanted in known:
        return known[wanted]
    raise UserError(
        "no such recipe",
        where=str(name),
        expected="a YAML file, or one of " + ", ".join(known),
        got=str(name),
        fix=did_you_mean(wanted, known),
    )


# --- Building a run's parts ---------------------------------------------------------------


def make_vocabulary(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """What objectives need of the tokenizer, for a model with `size` embeddings."""
    roles = {role: id_ for role, id_ in tokenizer.special_ids.items() if id_ is not None}
    starts = np.ones(size, bool)
    starts[: tokenizer.vocab_size] = tokenizer.word_starts()
    return Vocabulary(
        size=tokenizer.vocab_size,
        special_ids=roles,
        document_end=tokenizer.document_end,
        word_starts=starts,
    )


def build(config: RunConfig) -> Parts:
    """Opens the data, builds model, objective and optimizer, and checks that they fit together.

    Raises:
      UserError: anything that would fail or mislead later.
    """
    check_length(config.model, config.data.sequence_length)
    store = TokenStore.open(config.data.store)
    tokenizer = load_tokenizer(str(store.path / "tokenizer"))
    check_tokenizer(store, tokenizer.fingerprint)
    check_vocabulary(store, config.model.vocab_size)
    vocabulary = make_vocabulary(tokenizer, config.model.vocab_size)
    config.objective.check(config.model, vocabulary)
    mesh = make_mesh(config.mesh)
    check_batch(config.data.batch_size, config.train.accumulation, mesh)
    train_rows = open_rows(config.data, "train", store)
    config.objective.check_rows(train_rows.rows(np.arange(min(8, train_rows.num_rows)), 0))
    split = config.evaluation.split
    validation_rows, ratio = None, None
    if split in store.manifest.splits:
        validation_rows = open_rows(config.data, split, store)
        ratio = tokens_per_byte(store, split)
    tokens_per_step = config.data.batch_size * config.data.sequence_length
    optimizer, schedule = make_optimizer(config.optimizer, config.train.steps, tokens_per_step)
    return Parts(
        model=Model(config.model, config.objective.heads, config.precision),
        objective=config.objective,
        optimizer=optimizer,
        schedule=schedule,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        train_rows=train_rows,
        validation_rows=validation_rows,
        tokens_per_byte=ratio,
        mesh=mesh,
    )


def tokens_per_byte(store: TokenStore, split: str) -> float | None:
    """Content tokens of a split (document ends left out) for each byte of its text."""
    record = store.manifest.splits[split]
    return (record.tokens - record.documents) / record.bytes if record.bytes else None


# --- Pretraining --------------------------------------------------------------------------


def pretrain(config: RunConfig, say=print) -> Outcome:
    """Trains, or resumes, the run in `config.out` and writes its report.

    Raises:
      UserError: a mistake in the configuration, the data or the run directory.
      NotFinite: the loss was not finite and the configuration does not allow going on.
    """
    from jaxssl.report import write_report

    started = time.time()
    hosts.connect(config.distributed)
    parts = build(config)
    run_dir = open_run_directory(config, parts)
    if hosts.is_first():
        for line in describe(config, parts):
            say(line)
    settings = Settings(**{f.name: getattr(config, f.name) for f in dataclasses.fields(Settings)})
    quiet = say if hosts.is_first() else lambda text: None
    outcome = fit(parts, settings, run_dir, quiet)
    if hosts.is_first():
        write_summary(config, parts, run_dir, outcome, time.time() - started)
        say(f"report: {write_report(run_dir)}")
    return outcome


def open_run_directory(config: RunConfig, parts: Parts) -> Path:
    """Makes the run directory, or checks that it belongs to this configuration and data.

    Raises:
      UserError: it cannot be written, or holds another run.
    """
    hosts.first_decides(lambda: _open_run_directory(config, parts))
    return Path(config.out)


def _open_run_directory(config: RunConfig, parts: Parts) -> int:
    run_dir = Path(config.out)
    identity = {
        "config": configuration.to_dict(config),
        "store": sha256(Path(config.data.store) / "manifest.json"),
    }
    known = run_dir / "run.json"
    if known.is_file():
        check_same_run(known, read_identity(known), identity)
    elif others := _foreign_files(run_dir):
        raise UserError(
            "the run directory holds something else",
            where=run_dir,
            expected="a new or empty directory, or one of an earlier run",
            got=", ".join(others[:5]),
            fix="choose another directory with out=...",
        )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with atomic_write(known) as file:
            json.dump(identity, file, indent=2)
        with atomic_write(run_dir / "config.yaml") as file:
            file.write(configuration.to_yaml(config))
        with atomic_write(run_dir / "environment.json") as file:
            json.dump(environment(), file, indent=2)
        parts.tokenizer.save(run_dir / "tokenizer")
    except OSError as error:
        raise UserError(
            "the run directory cannot be written",
            where=run_dir,
            expected="a writable directory on a disk with space",
            got=error.strerror or error,
            fix="choose another directory with out=...",
        ) from error
    return 0


def _foreign_files(run_dir: Path) -> list[str]:
    """What is in a directory but the temporary files of a start that was killed."""
    names = [path.name for path in run_dir.iterdir()] if run_dir.is_dir() else []
    return sorted(x for x in names if not (x.startswith(".") and x.endswith(".tmp")))


def read_identity(path: Path) -> dict[str, Any]:
    """The configuration and store that a run was started with.

    Raises:
      UserError: the file is damaged.
    """
    try:
        identity = json.loads(path.read_text())
        return {"config": dict(identity["config"]), "store": str(identity["store"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            "the file that says which run this is is damaged",
            where=path,
            expected="what `jaxssl pretrain` wrote",
            got=f"{type(error).__name__}: {error}",
            fix="restore it from a copy, or choose another directory with out=...",
        ) from error


def check_same_run(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuses to resume with another model, objective, optimizer or data.

    Raises:
      UserError: lists each difference.
    """
    flat = lambda config: {
        key: value
        for key, value in flatten(config).items()
        if key.split("/")[0] not in MAY_CHANGE and key not in MAY_CHANGE_KEYS
    }
    before, after = flat(old["config"]), flat(new["config"])
    before = json.loads(json.dumps(before))
    after = json.loads(json.dumps(after))
    different = [
        f"{key.replace('/', '.')}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    if different:
        raise UserError(
            "the run directory belongs to a different configuration",
            where=path,
            expected="the configuration the run was started with",
            got="; ".join(different[:10]),
            fix="choose another directory with out=..., or give the old values",
        )
    if old["store"] != new["store"]:
        raise UserError(
            "the token store is not the one the run was started with",
            where=new["config"]["data"]["store"],
            expected=f"manifest with SHA-256 {old['store'][:16]}...",
            got=f"{new['store'][:16]}...",
            fix="choose another directory with out=..., or restore the store",
        )


def describe(config: RunConfig, parts: Parts) -> list[str]:
    """What is about to happen, in a few lines."""
    abstract = parts.model.abstract()
    shape = ", ".join(f"{name}={size}" for name, size in parts.mesh.shape.items())
    data, rows = config.data, parts.train_rows
    per_epoch = rows.num_rows // data.batch_size
    p = config.precision
    return [
        f"{config.model.name}: {num_parameters(abstract):,} parameters, objective "
        f"{config.objective.name}, {jax.device_count()} {jax.devices()[0].device_kind} ({shape})",
        f"precision: parameters {p.parameters}, compute {p.compute}, reductions {p.reduce}; "
        "attention: xla",
        f"data: {rows.num_rows:,} rows of {data.sequence_length} tokens, {per_epoch:,} steps an "
        f"epoch ({rows.num_rows % data.batch_size} rows left over), {config.train.steps:,} steps = "
        f"{config.train.steps / max(1, per_epoch):.2f} epochs",
    ]


def write_summary(
    config: RunConfig, parts: Parts, run_dir: Path, outcome: Outcome, seconds: float
) -> None:
    """`summary.json`: the facts of a run that are not metrics."""
    path = run_dir / "summary.json"
    earlier = json.loads(path.read_text())["seconds"] if path.is_file() else 0.0
    model, store = config.model, TokenStore.open(config.data.store)
    split = config.evaluation.split if parts.validation_rows is not None else "train"
    facts = {
        "name": run_dir.name,
        "model": f"{model.name} {model.num_layers}x{model.hidden_size}",
        "objective": " + ".join(config.objective.coefficients),
        "parameters": num_parameters(parts.model.abstract()),
        "steps": outcome.step,
        "tokens": outcome.step * config.data.batch_size * config.data.sequence_length,
        "seconds": earlier + seconds,
        "unigram_entropy": store.manifest.splits[split].unigram_entropy,
    }
    with atomic_write(path) as file:
        json.dump(facts, file, indent=2)


def environment() -> dict[str, Any]:
    """What the run runs on."""
    packages = ("jaxssl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
        "cores": os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        **versions,
    }


# --- Using a run --------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedModel:
    """A run's model with its parameters, and nothing of its optimizer.

    Attributes:
      step: the checkpoint's.
    """

    config: RunConfig
    model: Model
    params: Params
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    step: int


def open_run(run_dir: str | Path, step: int | str = "best") -> TrainedModel:
    """Restores the parameters of a run.

    Args:
      step: a number, "last", or "best" (lowest validation loss, or the last without any).

    Raises:
      UserError: no run there, no such step, a damaged checkpoint.
    """
    run_dir = Path(run_dir)
    config = read_run_config(run_dir)
    manager = CheckpointManager(run_dir / "checkpoints", config.checkpoint)
    chosen = choose_step(manager, step)
    tokenizer = load_tokenizer(str(run_dir / "tokenizer"))
    model = Model(config.model, config.objective.heads, config.precision)
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        optimizer, _ = make_optimizer(config.optimizer, config.train.steps, 1)
        abstract = abstract_state(make_init(model, optimizer), mesh).params
        params = manager.restore_part(chosen, {"params": abstract})["params"]
    vocabulary = make_vocabulary(tokenizer, config.model.vocab_size)
    return TrainedModel(config, model, params, tokenizer, vocabulary, chosen)


def read_run_config(run_dir: Path) -> RunConfig:
    """The configuration in a run directory.

    Raises:
      UserError: it is not a run directory.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise UserError(
            "not a run directory",
            where=run_dir,
            expected="a directory with config.yaml, as `jaxssl pretrain` makes",
            got="no such directory" if not run_dir.is_dir() else "no config.yaml in it",
        )
    return configuration.load(RunConfig, [path])


def choose_step(manager: CheckpointManager, step: int | str) -> int:
    """A finished, intact step of a run."""
    from jaxssl.checkpoint import manifest

    steps = manager.steps()
    if not steps:
        raise UserError(
            "the run has no checkpoint yet",
            where=manager.directory,
            expected="at least one finished step",
            got="none",
            fix="start `jaxssl pretrain` again with the run's configuration; it goes on",
        )
    wanted = int(step) if str(step).isdigit() else None
    if step == "best":
        wanted = manager.best() or steps[-1]
    elif step == "last":
        wanted = steps[-1]
    if wanted not in steps:
        raise UserError(
            "no such checkpoint",
            where=manager.directory,
            expected="best, last or one of " + ", ".join(map(str, steps)),
            got=step,
        )
    manager.meta(wanted)
    if manager.config.verify:
        manifest.verify(manager.path(wanted))
    return wanted


def evaluate_run(
    run_dir: str | Path,
    *,
    split: str = "validation",
    step: int | str = "best",
    store: str | None = None,
    batches: int | None = None,
) -> dict[str, float]:
    """Loss and metrics of a run's checkpoint over a split, each row counted once."""
    trained = open_run(run_dir, step)
    config = trained.config
    data = config.data if store is None else dataclasses.replace(config.data, store=store)
    opened = TokenStore.open(data.store)
    check_tokenizer(opened, trained.tokenizer.fingerprint)
    rows = open_rows(data, split, opened)
    mesh = make_mesh(MeshConfig())
    shards = batch_shards(mesh)
    eval_step = make_eval_step(
        trained.model, config.objective, trained.vocabulary, seed=config.train.seed
    )
    with jax.set_mesh(mesh):
        values = evaluate(
            jax.jit(eval_step),
            config.objective,
            trained.params,
            rows,
            mesh,
            batch_size=-(-data.batch_size // shards) * shards,  # the run may have had fewer devices
            limit=batches,
            tokens_per_byte=tokens_per_byte(opened, split),
        )
    return {"step": trained.step, **values}


def generate_texts(
    run_dir: str | Path, prompts: Sequence[str], sampling: Sampling, step: int | str = "best"
) -> list[str]:
    """What a causal run writes after each prompt."""
    trained = open_run(run_dir, step)
    _check_head(trained, "causal_lm", "generate", "fill-mask")
    return continue_texts(
        trained.model,
        trained.params,
        trained.tokenizer,
        trained.vocabulary,
        tuple(prompts),
        sampling,
    )


def fill_masks(
    run_dir: str | Path, texts: Sequence[str], top: int = 5, step: int | str = "best"
) -> list[list[list[dict[str, Any]]]]:
    """For each text, for each mask in it, the likeliest tokens."""
    trained = open_run(run_dir, step)
    _check_head(trained, "masked_lm", "fill-mask", "generate")
    mask = trained.tokenizer.token(trained.vocabulary.special_ids["mask"]) or "[MASK]"
    for text in texts:
        if mask not in text:
            raise UserError(
                "there is nothing to fill", where=repr(text), expected=f"{mask} in the text"
            )
    return [
        fill_text(trained.model, trained.params, trained.tokenizer, trained.vocabulary, text, top)
        for text in texts
    ]


def _check_head(trained: TrainedModel, head: str, verb: str, other: str) -> None:
    if head not in trained.model.heads:
        raise UserError(
            f"this run cannot {verb}",
            where="the run's objective",
            expected=f"a run trained with {head}",
            got=trained.config.objective.name,
            fix=f"try `jaxssl {other}`",
        )


def shapes_of(params: Params) -> dict[str, Any]:
    """{name: (shape, dtype)} of parameters, for `jaxssl inspect`."""
    return {name: (leaf.shape, str(leaf.dtype)) for name, leaf in flatten(unbox(params)).items()}

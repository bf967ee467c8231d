"""One run: its whole configuration, and how its parts are built and wired.

This is the only module that sees everything. The command line calls the functions here; so can you:

    from jaxssl import run
    config = run.load_config(["configs/pretrain/bert-tiny.yaml"], ["data.store=stores/wiki"])
    run.pretrain(config)
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxssl import exportable
from jaxssl.checkpoint.hf.directory import is_hf_directory, open_model
from jaxssl.checkpoint.ledger import InitConfig, split_checkpoint
from jaxssl.checkpoint.manager import CheckpointConfig
from jaxssl.core import config as configuration
from jaxssl.core.bounds import check_local
from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.files import atomic_write, sha256
from jaxssl.core.precision import Precision
from jaxssl.core.types import Vocabulary
from jaxssl.data.loader import DataConfig, StoreData, make_plans, open_rows
from jaxssl.data.rows import Batch, RowSource
from jaxssl.data.store import TokenStore, check_tokenizer, check_vocabulary
from jaxssl.data.tokenizer import Tokenizer, load_tokenizer
from jaxssl.models.model import Model, ModelConfig, check_length, num_parameters
from jaxssl.objectives.combine import ObjectiveConfig
from jaxssl.optim.adamw import AdamW, check_no_decay, make_optimizer
from jaxssl.parallel import hosts
from jaxssl.parallel.mesh import MeshConfig, check_batch, make_mesh
from jaxssl.parallel.rules import make_rules, use_rules
from jaxssl.run_directory import RunLock, open_run_directory
from jaxssl.tasks.registry import ALL_HEADS
from jaxssl.train.evaluation import EvaluationConfig
from jaxssl.train.loop import Outcome, fit
from jaxssl.train.profile import ProfileConfig
from jaxssl.train.samples import SamplesConfig, check_samples
from jaxssl.train.settings import LoggingConfig, Parts, Settings, TrainConfig, resolved
from jaxssl.train.validation import check_best_by
from jaxssl.train.watchdog import WatchdogConfig
from jaxssl.transfer.start import open_start, write_start


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
    init: InitConfig | None = None
    """What it goes on from; null starts afresh."""
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

    def __post_init__(self):
        check_local(self, "out")


def load_config(recipes: Iterable[str | Path], overrides: Iterable[str] = ()) -> RunConfig:
    """Recipes (later ones win) and `a.b=c` overrides as a validated configuration, over the model
    of the run that `init.from` names, if any."""
    paths, overrides = [find_recipe(recipe) for recipe in recipes], list(overrides)
    below = base_model(configuration.combine(paths, overrides))
    return configuration.load(RunConfig, [below, *paths], overrides)


def base_model(given: Mapping[str, Any]) -> dict[str, Any]:
    """{"model": that of the run to start from, in one segment}; nothing without `init.from`.

    Args:
      given: a configuration's layers, combined.

    Raises:
      UserError: `init.from` is no run.
    """
    init = given.get("init")
    if not isinstance(init, Mapping) or not isinstance(init.get("from"), str):
        return {}
    run_dir, _ = split_checkpoint(init["from"])
    if is_hf_directory(run_dir):
        return {"model": configuration.to_dict(open_model(run_dir).config)}
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise UserError(
            "not a run to start from",
            where="init.from",
            expected="a run directory, with config.yaml and checkpoints/, or Hugging Face's, with "
            "config.json",
            got=f"{run_dir}" if run_dir.exists() else f"{run_dir}, which does not exist",
        )
    return {"model": {**configuration.read_yaml(path)["model"], "segments": []}}


def find_recipe(name: str | Path) -> Path:
    """A recipe's path: a file, or the name of one that comes with jaxssl (`pretrain/bert-tiny`).

    Raises:
      UserError: lists the recipes there are.
    """
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
    fix = did_you_mean(wanted, known)
    if fix is None and "/" not in wanted and ("." in wanted or not wanted.strip("=")):
        fix = "a change is written key=value without spaces, such as train.steps=1000"
    raise UserError(
        "no such recipe",
        where=str(name),
        expected="a YAML file, or one of " + ", ".join(known),
        got=str(name),
        fix=fix or "name one of these, or give the path of a file that exists",
    )


# --- Building a run's parts ---------------------------------------------------------------


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
    )


def build(config: RunConfig) -> Parts:
    """Opens the data, builds model, objective and optimizer, and checks that they fit together.

    Raises:
      UserError: anything that would fail or mislead later.
    """
    check_length(config.model, config.data.sequence_length)
    split = config.evaluation.split
    store = _open_store(config)
    tokenizer = load_tokenizer(str(store.path / "tokenizer"))
    check_tokenizer(store, tokenizer.fingerprint)
    _check_same_tokenizer(config, tokenizer)
    check_vocabulary(store, config.model.vocab_size)
    vocabulary = make_vocabulary(tokenizer, config.model.vocab_size)
    config.objective.check(config.model, vocabulary)
    check_samples(config.samples, config.model, config.objective.heads, tokenizer, vocabulary)
    mesh = make_mesh(config.mesh)
    check_batch(config.data.batch_size, config.train.accumulation, mesh)
    train_rows = open_rows(config.data, "train", store)
    config.objective.check_rows(spread_rows(train_rows))
    validation_data, ratio = None, None
    if split is not None:
        validation_rows = open_rows(config.data, split, store)
        config.objective.check_rows(spread_rows(validation_rows))
        validation_data = StoreData(validation_rows)
        ratio = tokens_per_byte(store, split)
    tokens_per_step = config.data.batch_size * config.data.sequence_length
    train, _ = resolve(config, train_rows.num_rows // config.data.batch_size)
    optimizer, schedule = make_optimizer(
        config.optimizer, train.steps, tokens_per_step, config.model.num_layers
    )
    model = Model(config.model, config.objective.heads, config.precision)
    check_no_decay(config.optimizer.no_decay, model.abstract())
    parts = Parts(
        model=model,
        objective=config.objective,
        optimizer=optimizer,
        schedule=schedule,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        train_data=StoreData(train_rows),
        validation_data=validation_data,
        tokens_per_byte=ratio,
        mesh=mesh,
        start=open_start(config.init, model, config.checkpoint, ALL_HEADS, config.out),
    )
    check_best_by(parts, config.evaluation)
    return parts


def _check_same_tokenizer(config: RunConfig, tokenizer: Tokenizer) -> None:
    """Refuses to go on with embeddings of another tokenizer's tokens."""
    if config.init is None:
        return
    base = load_tokenizer(tokenizer_of(config.init))
    if base.fingerprint != tokenizer.fingerprint:
        raise UserError(
            "the token store was made with another tokenizer than the run to start from",
            where="data.store, init.from",
            expected=f"{base.name} ({base.fingerprint[:12]})",
            got=f"{tokenizer.name} ({tokenizer.fingerprint[:12]})",
            fix=f"prepare the text with tokenizer={tokenizer_of(config.init)}",
        )


def tokenizer_of(init: InitConfig) -> str:
    """The tokenizer's directory of what a run starts from."""
    run_dir = init.run_dir
    return str(run_dir if is_hf_directory(run_dir) else run_dir / "tokenizer")


def _open_store(config: RunConfig) -> TokenStore:
    """The token store with all that is needed of it; the first process sees to that for all."""
    split = config.evaluation.split

    def complete() -> int:
        store = TokenStore.open(config.data.store, verify=config.data.verify)
        if split is not None:
            check_validation(store, split)
        make_plans(config.data, store, {"train", split or "train"})
        return 0

    hosts.first_decides(complete)
    return TokenStore.open(config.data.store)


def spread_rows(rows: RowSource, most: int = 4096) -> Batch:
    """At most so many rows, evenly over the split: what one batch shows may be an exception."""
    return rows.rows(np.linspace(0, rows.num_rows - 1, min(most, rows.num_rows), dtype=int), 0)


def check_validation(store: TokenStore, split: str) -> None:
    """Refuses a run whose validation split is not in the store.

    Raises:
      UserError: says how to get one, or to do without.
    """
    if split not in store.manifest.splits:
        raise UserError(
            "the token store has no such split to validate on",
            where="evaluation.split",
            expected="one of " + ", ".join(store.manifest.splits),
            got=split,
            fix="prepare the text with a larger validation_fraction (or documents=blank_lines, if "
            "it has few files), or train without validation: evaluation.split=null",
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
    hosts.connect(config.distributed)
    with use_rules(make_rules(config.mesh.rules)):
        return _pretrain(config, say)


def _pretrain(config: RunConfig, say) -> Outcome:
    from jaxssl.report import write_report

    parts = build(config)
    store = sha256(Path(config.data.store) / "manifest.json")
    first = hosts.is_first()
    with RunLock(config.out):
        run_dir = open_run_directory(config, parts.tokenizer, store, say)
        if first:
            write_start(run_dir, parts.start, keeps_base=False)
        for line in describe(config, parts) if first else ():
            say(line)
        outcome = fit(parts, make_settings(config, parts), run_dir, say if first else _say_nothing)
        if first:
            write_summary(config, parts, run_dir, outcome)
            say(f"report: {write_report(run_dir)}")
    return outcome


def make_settings(config: Any, parts: Parts) -> Settings:
    """What the loop reads of a configuration, with epochs turned into steps."""
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(Settings)}
    places = np.arange(config.data.batch_size)
    batches = parts.train_data.train_batches(config.data.batch_size, config.data.seed, places)
    train, evaluation = resolve(config, batches.per_epoch)
    return Settings(**{**fields, "train": train, "evaluation": evaluation})


def resolve(config: Any, per_epoch: int) -> tuple[TrainConfig, EvaluationConfig]:
    """`train` and `evaluation` with epochs turned into steps."""
    return resolved(config.train, config.evaluation, per_epoch)


def _say_nothing(text: str) -> None:
    del text


def describe(config: RunConfig, parts: Parts) -> list[str]:
    """What is about to happen, in a few lines."""
    abstract = parts.model.abstract()
    shape = ", ".join(f"{name}={size}" for name, size in parts.mesh.shape.items())
    data, rows = config.data, parts.train_data
    per_epoch = rows.num_rows // data.batch_size
    steps = resolve(config, per_epoch)[0].steps
    return [
        *parts.start.lines(),
        f"{config.model.name}: {num_parameters(abstract):,} parameters, objective "
        f"{config.objective.name}, {jax.device_count()} {jax.devices()[0].device_kind} ({shape})",
        *exportable.notes(config.model, parts.model.heads, None, parts.tokenizer),
        f"{config.precision.summary}; attention: {config.model.attention}",
        f"data: {rows.num_rows:,} rows of {data.sequence_length} tokens, {per_epoch:,} steps an "
        f"epoch ({left_over(parts, config)} left over), {steps:,} steps = "
        f"{steps / max(1, per_epoch):.2f} epochs",
        *nothing_before_the_end(steps, resolve(config, per_epoch)[1], config.checkpoint),
    ]


def left_over(parts: Parts, config: RunConfig) -> str:
    """What an epoch leaves out, in words: rows short of a batch, tokens short of a row."""
    rows = f"{parts.train_data.num_rows % config.data.batch_size} rows"
    source = getattr(parts.train_data, "source", None)
    tokens = getattr(source, "tokens_left_over", 0)
    return rows + (f" and {tokens} tokens" if tokens else "")


def nothing_before_the_end(
    steps: int, evaluation: EvaluationConfig, checkpoint: CheckpointConfig
) -> list[str]:
    """Warnings of a run that is shorter than the steps between its checkpoints or validations."""
    lines = []
    if checkpoint.every >= steps:
        lines.append(
            f"warning: checkpoints every {checkpoint.every:,} steps: none before the end at step "
            f"{steps:,}, so that a killed run starts anew (checkpoint.every={max(1, steps // 5)})"
        )
    if evaluation.split is not None and not 0 < evaluation.every < steps:
        often = f"every {evaluation.every:,} steps" if evaluation.every else "at the end alone"
        lines.append(
            f"warning: validation {often}: none before step {steps:,}, so that the report has no "
            f"curve of it (evaluation.every={max(1, steps // 5)})"
        )
    return lines


def write_summary(config: RunConfig, parts: Parts, run_dir: Path, outcome: Outcome) -> None:
    """`summary.json`: the facts of a run that are not metrics, the same however often it is
    written."""
    model, store = config.model, TokenStore.open(config.data.store)
    split = config.evaluation.split or "train"
    facts = {
        "name": run_dir.name,
        "model": f"{model.name} {model.num_layers}x{model.hidden_size}",
        "objective": " + ".join(config.objective.coefficients),
        "parameters": num_parameters(parts.model.abstract()),
        "steps": outcome.step,
        "unigram_entropy": store.manifest.splits[split].unigram_entropy,
    }
    with atomic_write(run_dir / "summary.json") as file:
        json.dump(facts, file, indent=2)

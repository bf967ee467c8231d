"""Fine-tuning: a labelled task for a model that was trained before, or for a fresh one.

from jaxssl import finetune
config = finetune.load_config(["recipe.yaml"], ["init.from=runs/bert", "out=runs/reviews"])
finetune.finetune(config)
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxssl.checkpoint import ledger
from jaxssl.checkpoint.ledger import InitConfig
from jaxssl.checkpoint.manager import CheckpointConfig, CheckpointManager
from jaxssl.checkpoint.stored import BASE, identity, stored_run
from jaxssl.core import config as configuration
from jaxssl.core.bounds import check_at_least, check_seed
from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.files import atomic_write
from jaxssl.core.names import flatten
from jaxssl.core.precision import Precision
from jaxssl.data.labelled import LabelledData, row_lengths
from jaxssl.data.tables import LabelledData as LabelledTables
from jaxssl.data.tables import read_splits
from jaxssl.data.tokenizer import Tokenizer, load_tokenizer
from jaxssl.models.heads import HEADS, head_name
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model, ModelConfig, check_length
from jaxssl.optim.adamw import AdamW, make_optimizer
from jaxssl.parallel import hosts
from jaxssl.parallel.mesh import MeshConfig, check_batch, make_mesh
from jaxssl.run import find_recipe, make_settings, make_vocabulary, resolve
from jaxssl.run_directory import RunLock, open_run_directory
from jaxssl.tasks.base import Encoded
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.registry import TASK_HEADS, TaskConfig
from jaxssl.train.evaluation import EvaluationConfig
from jaxssl.train.loop import Outcome, fit
from jaxssl.train.profile import ProfileConfig
from jaxssl.train.samples import SamplesConfig
from jaxssl.train.settings import LoggingConfig, Parts, TrainConfig
from jaxssl.train.watchdog import WatchdogConfig
from jaxssl.transfer import freezing
from jaxssl.transfer.freezing import Freezing
from jaxssl.transfer.start import Start, plan_start, uncut

KNOWN_HEADS = (*HEADS, *TASK_HEADS, "pooler")
"""Top-level names of heads: those of another run may be left behind unasked."""


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """What is learnt from, and how it is batched."""

    tables: LabelledTables
    """Where the examples come from."""
    max_length: int = 128
    """Longest row, in tokens. What is longer loses its end, or is read in windows, as the task
    has it; both are said."""
    batch_size: int = 32
    """Examples a step, over all hosts and devices."""
    row_lengths: int = 4
    """Into how many lengths rows are padded; each is compiled once."""
    seed: int = 0
    """Of the order of the examples."""
    prefetch: int = 4
    """Batches that are read ahead."""

    def __post_init__(self):
        check_at_least(1, self, "max_length", "batch_size", "row_lengths")
        check_at_least(0, self, "prefetch")
        check_seed(self)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Everything that decides a run."""

    out: str
    """The run directory. Run again, it resumes."""
    init: InitConfig | None = None
    """What to start from; null starts fresh, with `model` and `tokenizer` given."""
    model: ModelConfig
    """The network; what is not given is as in the run it starts from."""
    tokenizer: str | None = None
    """Directory, .model file or name on the hub; null takes that of the run it starts from."""
    task: TaskConfig = Classify()
    """What is to be learnt."""
    data: LabelledConfig
    """From what."""
    freezing: Freezing = Freezing()
    """Which parameters are trained."""
    optimizer: AdamW = AdamW(learning_rate=5e-5)
    """How they are updated."""
    train: TrainConfig = TrainConfig(epochs=3)
    """How long, and what happens when a step goes wrong."""
    evaluation: EvaluationConfig = EvaluationConfig(every_epochs=1)
    """Validation during training."""
    checkpoint: CheckpointConfig = CheckpointConfig(keep_last=1)
    """What is saved. What is frozen is not."""
    precision: Precision = Precision()
    """Which dtype holds what."""
    mesh: MeshConfig = MeshConfig()
    """How devices are arranged."""
    distributed: hosts.DistributedConfig = hosts.DistributedConfig()
    """How several processes find each other."""
    logging: LoggingConfig = LoggingConfig()
    """What is written down."""
    watchdog: WatchdogConfig = WatchdogConfig()
    """When a step counts as hung."""
    profile: ProfileConfig = ProfileConfig()
    """Steps to trace."""

    @property
    def samples(self) -> SamplesConfig:
        """None: a task has nothing to continue or fill."""
        return SamplesConfig()

    @property
    def objective(self) -> TaskConfig:
        """The task, as what is trained."""
        return self.task


def load_config(recipes: Iterable[str | Path], overrides: Iterable[str] = ()) -> FinetuneConfig:
    """Recipes and overrides as a validated configuration, over the base's model.

    Raises:
      UserError: a mistake in them; `init.from` is no run.
    """
    layers = [configuration.read_yaml(find_recipe(recipe)) for recipe in recipes]
    overrides = list(overrides)
    given = configuration.combine(layers, overrides)
    below: dict[str, Any] = {}
    init = given.get("init")
    if isinstance(init, Mapping) and isinstance(init.get("from"), str):
        below["model"] = {**read_model(Path(init["from"])), "segments": []}
    for section, keys, default in (
        ("train", {"steps", "epochs"}, {"epochs": 3}),
        ("evaluation", {"every", "every_epochs"}, {"every_epochs": 1}),
    ):
        if not keys & set(given.get(section) or {}):
            below[section] = default
    return configuration.load(FinetuneConfig, [below, *layers], overrides)


def read_model(run_dir: Path) -> dict[str, Any]:
    """The model of a run, as it stands in its configuration.

    Raises:
      UserError: it is no run directory.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise UserError(
            "not a run to start from",
            where="init.from",
            expected="a run directory, with config.yaml and checkpoints/",
            got=f"{run_dir}" if run_dir.exists() else f"{run_dir}, which does not exist",
        )
    return dict(configuration.read_yaml(path)["model"])


# --- Building -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Prepared:
    """A run, read and checked.

    Attributes:
      config: with the labels, and the model cut where freezing wants it.
      parts: for the loop.
      base: what is noted of the base, if there is one.
      data: checksum of the examples.
      lengths: of rows, in tokens.
      notes: what the user is told of the data.
    """

    config: FinetuneConfig
    parts: Parts
    base: dict[str, Any] | None
    data: str
    lengths: tuple[int, ...]
    notes: tuple[str, ...]


def build(config: FinetuneConfig) -> Prepared:
    """Reads the data, decides what is restored and what trained, and checks that all fits.

    Raises:
      UserError: anything that would fail or mislead later.
    """
    check_length(config.model, config.data.max_length, "data.max_length")
    tokenizer = load_tokenizer(_tokenizer_of(config))
    tables = read_splits(config.data.tables, config.task.label, key="task.label")
    task = config.task.learn_labels(tables["train"])
    config = dataclasses.replace(config, task=task, model=task.fit_model(config.model))
    vocabulary = make_vocabulary(tokenizer, config.model.vocab_size)
    task.check(config.model, vocabulary)
    mesh = make_mesh(config.mesh)
    check_batch(config.data.batch_size, config.train.accumulation, mesh)
    splits = {
        name: task.encode(table, tokenizer, config.data.max_length, name)
        for name, table in tables.items()
    }
    edges = row_lengths(splits["train"].examples.lengths, config.data.row_lengths)
    data = {name: as_data(encoded, edges) for name, encoded in splits.items()}
    validation = _validation(config.evaluation, data)
    model = Model(config.model, task.heads, config.precision)
    start, base = _start(config, model)
    decisions = freezing.choose(
        config.freezing,
        unbox(uncut(model).abstract()),
        [head_name(head) for head in task.heads],
        config.model.num_layers,
    )
    segments = freezing.cut([decisions], config.model.num_layers)
    model = dataclasses.replace(model, config=dataclasses.replace(config.model, segments=segments))
    leaves = flatten(unbox(model.abstract()))
    trained = {path for path, x in leaves.items() if freezing.is_trained(decisions, path, x)}
    train, _ = resolve(config, -(-data["train"].num_rows // config.data.batch_size))
    tokens_per_step = config.data.batch_size * int(edges[-1])
    optimizer, schedule = make_optimizer(
        config.optimizer, train.steps, tokens_per_step, config.model.num_layers
    )
    parts = Parts(
        model=model,
        objective=task,
        optimizer=optimizer,
        schedule=schedule,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        train_data=data["train"],
        validation_data=validation,
        tokens_per_byte=None,
        mesh=mesh,
        start=start,
        is_trained=trained.__contains__,
        metric=task.metric,
    )
    notes = tuple(text for encoded in splits.values() for text in encoded.notes)
    return Prepared(config, parts, base, _checksum(splits), tuple(edges.tolist()), notes)


def read_split(config: FinetuneConfig, tokenizer: Tokenizer, split: str) -> LabelledData:
    """A split of a run's labelled data; the task has its labels already.

    Raises:
      UserError: no such split, or labels that the run does not know.
    """
    tables = read_splits(config.data.tables, config.task.label, note=_say_nothing, key="task.label")
    if split not in tables:
        raise UserError(
            "there is no such split",
            where="split",
            expected="one of " + ", ".join(tables),
            got=split,
            fix=did_you_mean(split, tables),
        )
    encoded = config.task.encode(tables[split], tokenizer, config.data.max_length, split)
    return as_data(encoded, row_lengths(encoded.examples.lengths, config.data.row_lengths))


def _tokenizer_of(config: FinetuneConfig) -> str:
    if config.tokenizer is not None:
        return config.tokenizer
    if config.init is None:
        raise UserError(
            "without a run to start from, a tokenizer must be given",
            where="tokenizer",
            expected="a tokenizer directory, a .model file or a name on the hub",
            got="null",
            fix="set tokenizer=..., or init.from=RUN",
        )
    return str(Path(config.init.from_) / "tokenizer")


def as_data(encoded: Encoded, edges: Any) -> LabelledData:
    """A split as data for the loop; rows longer than any seen in training get a length more."""
    longest = row_lengths(encoded.examples.lengths, 1)[-1]
    if longest > edges[-1]:
        edges = [*edges, longest]
    return LabelledData(encoded.examples, np.asarray(edges), encoded.references)


def _validation(
    evaluation: EvaluationConfig, data: Mapping[str, LabelledData]
) -> LabelledData | None:
    if evaluation.split is None:
        return None
    if evaluation.split not in data:
        raise UserError(
            "there is no such split to validate on",
            where="evaluation.split",
            expected="one of " + ", ".join(data),
            got=evaluation.split,
            fix="give data.tables.validation, or a validation_fraction above 0",
        )
    return data[evaluation.split]


def _start(config: FinetuneConfig, model: Model) -> tuple[Start, dict[str, Any] | None]:
    if config.init is None:
        return Start(), None
    run_dir = Path(config.init.from_)
    manager = CheckpointManager(run_dir / "checkpoints", config.checkpoint)
    checkpoint = manager.path(manager.choose(config.init.step))
    stored = stored_run(run_dir, checkpoint)
    tops = {name.split("/")[0] for name in stored.pieces}
    heads = [name for name in tops if name in KNOWN_HEADS]
    start = plan_start(config.init, model, stored, heads)
    return start, identity(checkpoint, start.entries)


def _checksum(splits: Mapping[str, Encoded]) -> str:
    """Of all tokens and labels: another order or another example is other data."""
    digest = hashlib.sha256()
    for name in sorted(splits):
        examples = splits[name].examples
        labels = [*examples.per_row.values(), *(x for x, _ in examples.per_token.values())]
        for array in (examples.tokens, examples.starts, *labels):
            digest.update(array.tobytes())
    return digest.hexdigest()


# --- Running ------------------------------------------------------------------------------------


def finetune(config: FinetuneConfig, say=print) -> Outcome:
    """Trains, or resumes, the run in `config.out` and writes its report.

    Raises:
      UserError: a mistake in the configuration, the data or the run directory.
      NotFinite: the loss was not finite and the configuration does not allow going on.
    """
    from jaxssl.report import write_report

    hosts.connect(config.distributed)
    prepared = build(config)
    config, parts = prepared.config, prepared.parts
    first = hosts.is_first()
    with RunLock(config.out):
        run_dir = open_run_directory(config, parts.tokenizer, prepared.data, say)
        if first:
            _write_base(run_dir, prepared)
            for line in describe(config, prepared):
                say(line)
        outcome = fit(parts, make_settings(config, parts), run_dir, say if first else _say_nothing)
        if first:
            write_summary(config, parts, run_dir, outcome)
            say(f"report: {write_report(run_dir)}")
    return outcome


def _write_base(run_dir: Path, prepared: Prepared) -> None:
    """The ledger, and which checkpoint the frozen parameters are those of."""
    if prepared.base is not None:
        ledger.write_ledger(run_dir / "ledger.json", prepared.base, prepared.parts.start.entries)
        with atomic_write(run_dir / BASE) as file:
            json.dump(prepared.base, file, indent=1)


def _say_nothing(text: str) -> None:
    del text


def describe(config: FinetuneConfig, prepared: Prepared) -> list[str]:
    """What is about to happen: the ledger, the receipt, the data."""
    parts = prepared.parts
    shape = ", ".join(f"{name}={size}" for name, size in parts.mesh.shape.items())
    leaves = flatten(unbox(parts.model.abstract()))
    total = sum(leaf.size for leaf in leaves.values())
    trained = sum(leaf.size for path, leaf in leaves.items() if parts.is_trained(path))
    train = parts.train_data.num_rows
    lines = list(prepared.notes)
    if prepared.base is not None:
        lines += [f"from step {prepared.base['step']} of {prepared.base['run']}:"]
        lines += ledger.table(parts.start.entries)
    return [
        *lines,
        f"{config.model.name}: {total:,} parameters, {trained:,} of them trained "
        f"({trained / total:.1%}), {8 * trained:,} bytes of moments",
        f"task {config.task.name}: {config.task.summary}; "
        f"{jax.device_count()} {jax.devices()[0].device_kind} ({shape})",
        f"data: {train:,} examples, rows of {', '.join(map(str, prepared.lengths))} tokens",
    ]


def write_summary(config: FinetuneConfig, parts: Parts, run_dir: Path, outcome: Outcome) -> None:
    """`summary.json`: the facts of a run that are not metrics."""
    model = config.model
    facts = {
        "name": run_dir.name,
        "model": f"{model.name} {model.num_layers}x{model.hidden_size}",
        "objective": config.task.name,
        "parameters": freezing.count(unbox(parts.model.abstract())),
        "steps": outcome.step,
    }
    with atomic_write(run_dir / "summary.json") as file:
        json.dump(facts, file, indent=2)

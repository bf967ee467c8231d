"""Fine-tuning: a labelled task for a model that was trained before, or for a fresh one.

from jaxssl import finetune
config = finetune.load_config(["recipe.yaml"], ["init.from=runs/bert", "out=runs/reviews"])
finetune.finetune(config)
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxssl import exportable, trained
from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.core.names import flatten
from jaxssl.data.labelled import LabelledData, row_lengths
from jaxssl.data.tokenizer import load_tokenizer
from jaxssl.finetune_config import FinetuneConfig, as_data, load_config, read_labelled
from jaxssl.models.heads import head_name
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model, check_length, num_parameters
from jaxssl.optim.adamw import check_no_decay, make_optimizer
from jaxssl.optim.groups import GroupOf
from jaxssl.parallel import hosts
from jaxssl.parallel.mesh import check_batch, make_mesh
from jaxssl.parallel.rules import make_rules, use_rules
from jaxssl.run import make_settings, make_vocabulary, resolve, tokenizer_of
from jaxssl.run_directory import RunLock, open_run_directory
from jaxssl.tasks.base import Encoded
from jaxssl.tasks.registry import ALL_HEADS
from jaxssl.train import receipt
from jaxssl.train.evaluation import EvaluationConfig
from jaxssl.train.loop import Outcome, fit
from jaxssl.train.phase import Phases
from jaxssl.train.receipt import Receipt
from jaxssl.train.settings import Parts, Stage
from jaxssl.train.validation import check_best_by
from jaxssl.transfer import freezing
from jaxssl.transfer.start import Start, open_start, uncut, write_start

__all__ = ["FinetuneConfig", "Prepared", "build", "finetune", "load_config"]

SCORES = "scores.json"


@dataclass(frozen=True, eq=False)
class Prepared:
    """A run, read and checked.

    Attributes:
      config: with the labels, and the model as the task wants it.
      parts: for the loop.
      splits: the examples.
      data: their checksum.
      lengths: of rows, in tokens.
      notes: what the user is told of the data.
    """

    config: FinetuneConfig
    parts: Parts
    splits: dict[str, LabelledData]
    data: str
    lengths: tuple[int, ...]
    notes: tuple[str, ...]


# --- Building -----------------------------------------------------------------------------------


def build(config: FinetuneConfig) -> Prepared:
    """Reads the data, decides what is restored and what trained, and checks that all fits.

    Raises:
      UserError: anything that would fail or mislead later.
    """
    check_length(config.model, config.data.max_length, "data.max_length")
    tokenizer = load_tokenizer(_tokenizer_of(config))
    tables = read_labelled(config)
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
    per_epoch = -(-data["train"].num_rows // config.data.batch_size)
    model = Model(config.model, task.heads, config.precision)
    start = open_start(config.init, model, config.checkpoint, ALL_HEADS, config.out)
    train, _ = resolve(config, per_epoch)
    model, stages, group_of = plan_stages(config, start, per_epoch)
    check_no_decay(config.optimizer.no_decay, model.abstract())
    _check_stages(stages, train.steps)
    optimizer, schedule = make_optimizer(
        config.optimizer,
        train.steps,
        config.data.batch_size * int(edges[-1]),
        config.model.num_layers,
        group_of,
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
        stages=stages,
        regularization=config.regularization,
        encodes_once=config.freezing.cache and len(stages) == 1 and not _trains_body(model, stages),
        metric=task.metric,
    )
    check_best_by(parts, config.evaluation)
    max_length = config.data.max_length
    notes = tuple(x for name, encoded in splits.items() for x in encoded.told(max_length, name))
    return Prepared(config, parts, data, _checksum(splits), tuple(edges.tolist()), notes)


def plan_stages(
    config: FinetuneConfig, start: Start, per_epoch: int
) -> tuple[Model, tuple[Stage, ...], GroupOf | None]:
    """The model, cut so that each array is wholly trained or frozen in each stage; the stages; and,
    where there are several, which of them each parameter is first trained in, by path.

    Args:
      per_epoch: batches of an epoch.
    """
    model = Model(config.model, config.task.heads, config.precision)
    heads = [head_name(head) for head in model.heads]
    whole = unbox(uncut(model).abstract())
    chosen = freezing.choose_stages(config.freezing, whole, heads)
    decisions = [decision for _, decision in chosen]
    cuts = decisions
    if config.regularization.needs_anchors and start.fresh_top:
        restored = config.model.num_layers - start.fresh_top
        cuts = [*decisions, freezing.by_layer(decisions[0], lambda layer: layer < restored)]
    model = dataclasses.replace(model, config=config.model.with_segments(freezing.cut(cuts)))
    leaves = flatten(unbox(model.abstract()))
    stages, groups = [], {}
    for number, (epoch, decision) in enumerate(chosen):
        trained = {path for path, x in leaves.items() if freezing.is_trained(decision, path, x)}
        stages.append(Stage(round(epoch * per_epoch), trained.__contains__))
        groups = {**dict.fromkeys(trained, f"stage{number}"), **groups}
    group_of = lambda path: groups.get(
        path, "never"
    )  # asked of all, for the receipt of full tuning
    return model, tuple(stages), group_of if len(stages) > 1 else None


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


def _trains_body(model: Model, stages: Sequence[Stage]) -> bool:
    """Whether anything but heads and pooler is trained in the first stage."""
    heads = {*(head_name(head) for head in model.heads), "pooler"}
    body = (path for path in flatten(model.abstract()) if path.split("/")[0] not in heads)
    return any(map(stages[0].is_trained, body))


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
    return tokenizer_of(config.init)


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
    """Trains, or resumes, the run in `config.out`, scores its best checkpoint and writes its
    report.

    Raises:
      UserError: a mistake in the configuration, the data or the run directory.
      NotFinite: the loss was not finite and the configuration does not allow going on.
    """
    hosts.connect(config.distributed)
    with use_rules(make_rules(config.mesh.rules)):
        return _finetune(config, say)


def _finetune(config: FinetuneConfig, say) -> Outcome:
    from jaxssl.report import write_report

    prepared = build(config)
    config, parts = prepared.config, prepared.parts
    settings = make_settings(config, parts)
    first = hosts.is_first()
    tell = say if first else _say_nothing
    with RunLock(config.out):
        run_dir = open_run_directory(config, parts.tokenizer, prepared.data, say)
        phases = Phases(parts, settings.train)
        cost = receipt.make_receipt(parts, settings.train, phases, _longest_batch(config, parts))
        if first:
            receipt.write_receipt(run_dir, cost)
            write_start(run_dir, parts.start, keeps_base=True)
        for line in describe(config, prepared, cost) if first else ():
            tell(line)
        outcome = fit(parts, settings, run_dir, tell, phases)
        tell(_frozen_line(outcome))
        if outcome.stopped_by is None:
            outcome = score_best(prepared, run_dir, outcome, tell)
        if first:
            write_summary(config, parts, run_dir, outcome)
            tell(f"report: {write_report(run_dir)}")
    return outcome


def score_best(
    prepared: Prepared, run_dir: Path, outcome: Outcome, say: Callable[[str], None]
) -> Outcome:
    """Scores the best checkpoint on the splits it was not trained on, and writes `scores.json`.

    Returns:
      The outcome with the best checkpoint's validation in the place of the last one's.
    """
    model = trained.open_run(run_dir, "best")
    task, found = prepared.config.task, {}
    train = prepared.splits["train"].answers
    for name, data in prepared.splits.items():
        if name == "train":
            continue
        made = trained.evaluate_on(model, data, show=False)
        references = data.references(made.rows)
        blind = task.scores(task.blind(train, references), references)
        found[name] = {
            "scores": made.values,
            "blind": blind,
            **task.details(made.predictions, references),
        }
        say(
            f"{name}, step {model.step:,}: {task.metric} {made.values[task.metric]:.4f} "
            f"(without looking at the text: {blind[task.metric]:.4f})"
        )
    if hosts.is_first():
        with atomic_write(run_dir / SCORES) as file:
            json.dump({"step": model.step, "metric": task.metric, "splits": found}, file, indent=1)
    hosts.barrier("scores are written")
    split = prepared.config.evaluation.split
    values = found[split]["scores"] if split in found else outcome.validation
    return dataclasses.replace(outcome, validation=values)


def _longest_batch(config: FinetuneConfig, parts: Parts) -> dict[str, np.ndarray]:
    """A batch of the longest rows that training has."""
    data: Any = parts.train_data
    rows = np.arange(config.data.batch_size) % data.num_rows
    shortened = np.where(data.examples.lengths[rows] <= data.edges[-1], rows, -1)
    return data.examples.rows(shortened, int(data.edges[-1]), 0)


def _frozen_line(outcome: Outcome) -> str:
    if not outcome.frozen_arrays:
        return "every array was trained"
    return f"{outcome.frozen_arrays} frozen arrays: each has the bits it started with"


def _say_nothing(text: str) -> None:
    del text


def describe(config: FinetuneConfig, prepared: Prepared, cost: Receipt) -> list[str]:
    """What is about to happen: the ledger, the data, the stages, the receipt."""
    parts = prepared.parts
    shape = ", ".join(f"{name}={size}" for name, size in parts.mesh.shape.items())
    lines = [
        *prepared.notes,
        *parts.start.lines(),
        f"task {config.task.name}: {config.task.summary}; "
        f"{jax.device_count()} {jax.devices()[0].device_kind} ({shape})",
        *exportable.notes(config.model, parts.model.heads, config.task, parts.tokenizer),
        f"{config.precision.summary}; attention: {config.model.attention}",
        f"data: {parts.train_data.num_rows:,} examples, rows of "
        f"{', '.join(map(str, prepared.lengths))} tokens",
        f"{config.model.name}: {cost.parameters:,} parameters, {cost.own.trained:,} of them "
        f"trained ({cost.own.trained / cost.parameters:.1%})",
    ]
    later = [str(stage.first_step) for stage in parts.stages[1:]]
    lines += [f"more parameters are trained from steps {', '.join(later)} on"] if later else []
    is_partial = cost.own.trained < cost.parameters
    return lines + (receipt.table(cost) if is_partial else [])


def write_summary(config: FinetuneConfig, parts: Parts, run_dir: Path, outcome: Outcome) -> None:
    """`summary.json`: the facts of a run that are not metrics."""
    model = config.model
    facts = {
        "name": run_dir.name,
        "model": f"{model.name} {model.num_layers}x{model.hidden_size}",
        "objective": config.task.name,
        "parameters": num_parameters(unbox(parts.model.abstract())),
        "steps": outcome.step,
        "frozen_arrays": outcome.frozen_arrays,
    }
    with atomic_write(run_dir / "summary.json") as file:
        json.dump(facts, file, indent=2)

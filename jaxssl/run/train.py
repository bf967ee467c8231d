"""Training a run, from its configuration to its report: pretraining and fine-tuning are one.

from jaxssl.run.recipes import load_config
from jaxssl.run.train import train_run
train_run(load_config(["pretrain/bert-tiny"], ["data.store=stores/wiki", "out=runs/wiki"]))
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxssl.checkpoint.ledger import is_over_pieces
from jaxssl.checkpoint.manager import CheckpointConfig, CheckpointManager
from jaxssl.core import allocator
from jaxssl.core.files import atomic_write
from jaxssl.core.ramp import Ramp
from jaxssl.core.types import batch_shape
from jaxssl.models.model import ModelConfig, num_parameters
from jaxssl.objectives.base import Objective
from jaxssl.parallel import hosts
from jaxssl.parallel.rules import use_rules
from jaxssl.program.coded import describe_codes
from jaxssl.program.program import Program
from jaxssl.run.alike import check_alike, check_data_alike
from jaxssl.run.build import Built, build
from jaxssl.run.config import RunConfig
from jaxssl.run.directory import RunLock, open_run_directory
from jaxssl.run.open import evaluate_on, open_run
from jaxssl.run.other_codes import started_from_other_codes
from jaxssl.run.sealing import seal_run
from jaxssl.train import receipt
from jaxssl.train.evaluation import EvaluationConfig
from jaxssl.train.loop import Outcome, fit
from jaxssl.train.metrics import loss_key
from jaxssl.train.receipt import Receipt
from jaxssl.train.validation import prefixed
from jaxssl.transfer.peft.tokens import Tokens
from jaxssl.transfer.start import write_start

SCORES = "scores.json"
ROUND = 128
"""Vocabularies are rounded up to multiples of this, at most, for the sake of accelerators."""
Say = Callable[[str], None]


def train_run(config: RunConfig, say: Say = print) -> Outcome:
    """Trains, or resumes, the run in `config.out`, scores the best checkpoint of its tasks and
    writes its report.

    Raises:
      UserError: a mistake in the configuration, the data or the run directory.
      NotFinite: the loss was not finite and the configuration does not allow going on.
    """
    hosts.connect(config.distributed)
    check_alike(config)
    tell = say if hosts.is_first() else _say_nothing
    sources = dict.fromkeys(stream.data.source for stream in config.all_streams.values())
    tell(f"reading {', '.join(sources)}")
    with use_rules(config.mesh.layout()):
        return _train(build(config), say, tell)


def _train(built: Built, say: Say, tell: Say) -> Outcome:
    from jaxssl.report import write_report

    config, work = built.config, built.work
    check_data_alike(built.data, work.feeds.tokenizer.fingerprint, work.program.start.base)
    first = hosts.is_first()
    with RunLock(config.out) as lock:
        run_dir = open_run_directory(config, work.feeds.tokenizer, built.data, say)
        cost = find_receipt(built, run_dir, tell)
        if first:
            write_start(run_dir, work.program.start, keeps_base=_keeps_base(built))
            seal_run(run_dir)
        for line in describe(built, cost):
            tell(line)
        outcome = fit(work, run_dir, tell, before_save=lock.check)
        if outcome.frozen_arrays:
            tell(f"{outcome.frozen_arrays} frozen arrays: each has the bits it started with")
        if outcome.stopped_by is None and config.tasks:
            outcome = score_best(built, run_dir, outcome, tell)
        if first:
            write_summary(built, run_dir, outcome)
            tell(f"report: {write_report(run_dir)}")
    return outcome


def _say_nothing(text: str) -> None:
    del text


def _keeps_base(built: Built) -> bool:
    """Whether parameters are read from where the run started, since its checkpoints lack them."""
    phase = built.work.phases.at(0)
    return bool(phase.constants.frozen)


def score_best(built: Built, run_dir: Path, outcome: Outcome, say: Say) -> Outcome:
    """Scores the best checkpoint on the splits of its tasks that it was not trained on, and writes
    `scores.json`.

    Returns:
      The outcome with the best checkpoint's validation in the place of the last one's; that of
      several streams stays as it is, for all its numbers are of one checkpoint.
    """
    model = open_run(run_dir, "best")
    found, metrics, values = {}, [], dict(outcome.validation)
    for name, opened in built.streams.items():
        objective = opened.config.objective
        if not objective.named_tasks:
            continue
        train = opened.splits["train"].references(np.arange(opened.splits["train"].num_rows))
        for split, data in opened.splits.items():
            if split == "train":
                continue
            size = opened.config.data.batch_size
            made = evaluate_on(model, data, objective, size, stream=name, show=False)
            references = data.references(made.rows)
            baseline = objective.baseline_scores(train, references)
            key = f"{name}/{split}" if name else split
            found[key] = {
                "scores": made.values,
                "baseline": baseline,
                **objective.details(made.predictions, references),
            }
            metric = objective.metric
            metrics.append(metric)
            say(
                f"{key}, step {model.step:,}: {metric} {made.values[metric]:.4f} "
                f"(without looking at the text: {baseline[metric]:.4f})"
            )
            if split == opened.config.validation and len(built.streams) == 1:
                values |= made.values
    if hosts.is_first():
        facts = {"step": model.step, "metric": metrics[0] if metrics else None, "splits": found}
        with atomic_write(run_dir / SCORES) as file:
            json.dump(facts, file, indent=1)
    hosts.barrier("scores are written")
    return dataclasses.replace(outcome, validation=values)


# --- What is said and written -------------------------------------------------------------------


def find_receipt(built: Built, run_dir: Path, tell: Say = _say_nothing) -> Receipt:
    """What a step takes: made once, and read again where the run goes on on the same devices.

    Args:
      tell: is told of what takes long.
    """
    began = CheckpointManager(run_dir / "checkpoints", built.config.checkpoint).steps()
    cost = receipt.read_receipt(run_dir, built.work.program) if began else None
    if cost is None:
        work = built.work
        tell("compiling the step, to see what it takes")
        cost = receipt.make_receipt(
            work.program,
            work.phases,
            encodes_once=work.feeds.encodes_once,
            compare_full=work.settings.logging.compare_full,
        )
        if hosts.is_first():
            receipt.write_receipt(run_dir, cost)
    return cost


def describe(built: Built, cost: Receipt) -> list[str]:
    """What is about to happen: the ledger, the data, the stages, the receipt."""
    config, program, settings = built.config, built.work.program, built.work.settings
    shape = ", ".join(f"{name}={size}" for name, size in program.mesh.shape.items())
    is_partial = cost.own.trained < cost.parameters
    share = f", {cost.own.trained:,} of them trained ({cost.own.trained / cost.parameters:.1%})"
    length = max(batch_shape(opened.largest)[-1] for opened in built.streams.values())
    kernels = config.model.attention_told(length, config.precision)
    later = [str(stage.first_step) for stage in program.stages[1:]]
    return [
        *(warning for opened in built.streams.values() for warning in opened.warnings),
        *program.start.lines(),
        *started_from_other_codes(config),
        f"{config.model.name}: {cost.parameters:,} parameters{share if is_partial else ''}, "
        f"{jax.device_count()} {jax.devices()[0].device_kind} ({shape})",
        *(f"{part}: nothing reads it (model.{part}=false leaves it out)" for part in built.unread),
        *unused_rows(config, program.vocabulary.size),
        *frozen_new_rows(program),
        f"{config.precision.summary}; attention: {kernels}"
        + (f"; {told}" if (told := allocator.summary()) else ""),
        *([codes] if (codes := describe_codes(program)) else []),
        *_describe_compiler(program),
        *(line for name in built.streams for line in _describe_stream(built, name)),
        *describe_mixture(built),
        *([f"more parameters are trained from steps {', '.join(later)} on"] if later else []),
        *(receipt.table(cost) if is_partial else []),
        *receipt.price_of_sums(cost),
        *nothing_before_the_end(settings.train.steps, settings.evaluation, config.checkpoint),
    ]


def _describe_compiler(program: Program) -> list[str]:
    options = ", ".join(f"{name}={value!r}" for name, value in program.compiler)
    return [f"compiler: {options} (mesh.compiler changes them)"] if options else []


def unused_rows(config: RunConfig, pieces: int) -> list[str]:
    """A note where a model that starts afresh has more rows of its embedding than the tokenizer has
    pieces, by more than a round number takes: the tokenizer found fewer than it was asked for."""
    rows = config.model.vocab_size
    if not config.is_fresh or rows - pieces < ROUND:
        return []
    return [
        f"the tokenizer has {pieces:,} pieces and the model {rows:,} rows for them: "
        f"{rows - pieces:,} are never used (model.vocab_size={pieces} leaves them out)"
    ]


def frozen_new_rows(program: Program) -> list[str]:
    """Warnings of tables whose rows for new tokens stay as they begin, as beside an adapter: no
    stage trains them, and no adapter trains all of them."""
    start, last = program.start, program.stages[-1]
    stored, lines = start.stored.leaves(), []
    methods = [each.method for each in program.model.adapters]
    alone = {
        i for each in methods if isinstance(each, Tokens) and not each.frozen for i in each.ids
    }
    for entry in start.entries:
        table = str(entry.target)
        if entry.action != "resized" or not is_over_pieces(table) or last.is_trained(table):
            continue
        growth = start.grown.get(table)
        if isinstance(growth, functools.partial):
            new = growth.keywords["pieces"].ids
        else:
            new = range(max(stored[str(entry.source)].shape), max(entry.shape))
        if left := {*new} & {*range(program.vocabulary.size)} - alone:
            lines.append(
                f"warning: {table} is frozen, and so are its rows for new tokens, of which "
                f"{len(left):,} stay as they begin: train them with the method tokens, beside "
                "others by name ('peft={own: {name: lora}, new: {name: tokens, tokens: [...]}}'), "
                f"or the table ('freezing.train=[{table}]')"
            )
    return lines


def _describe_stream(built: Built, name: str) -> list[str]:
    opened, work = built.streams[name], built.work
    steps = work.settings.train.steps
    objective = opened.config.objective
    summaries = [task.about for task in objective.tasks]
    batches = work.program.draws.before(steps)[name]
    passes = batches / max(1, work.feeds.streams[name].per_epoch)
    lead = f"{name}: " if name else ""
    return [
        f"{lead}objective {objective.name}" + (f": {'; '.join(summaries)}" if summaries else ""),
        f"{lead}data: {opened.summary}, {steps:,} steps = {passes:.2f} epochs",
    ]


def describe_mixture(built: Built) -> list[str]:
    """The streams' shares of the steps, where they are taken by turns; and those of the rows, where
    their batches have several sizes."""
    shares = built.work.program.draws.shares(0)
    if not shares:
        return []
    sizes = {name: opened.config.data.batch_size for name, opened in built.streams.items()}
    rows = {name: share * sizes[name] for name, share in shares.items()}
    moves = any(isinstance(s.weight, Ramp) for s in built.config.all_streams.values())
    told = f"mixture: {_percent(shares)} of the steps"
    if len({*sizes.values()}) > 1:
        told += f" ({_percent(rows)} of the rows)"
    return [told + (", at step 0" if moves else "")]


def _percent(parts: Mapping[str, float]) -> str:
    whole = sum(parts.values())
    return ", ".join(f"{name} {part / whole:.1%}" for name, part in parts.items())


def nothing_before_the_end(
    steps: int, evaluation: EvaluationConfig, checkpoint: CheckpointConfig
) -> list[str]:
    """Warnings of a run that is shorter than the steps between its checkpoints or validations. The
    first validation is the best so far, and saves."""
    lines = []
    validates = evaluation.split is not None and 0 < evaluation.every < steps
    if checkpoint.every >= steps and not validates:
        lines.append(
            f"warning: checkpoints every {checkpoint.every:,} steps: none before the end at step "
            f"{steps:,}, so that a killed run starts anew (checkpoint.every={max(1, steps // 5)})"
        )
    if evaluation.split is not None and not validates:
        often = f"every {evaluation.every:,} steps" if evaluation.every else "at the end alone"
        lines.append(
            f"warning: validation {often}: none before step {steps:,}, so that the report has no "
            f"curve of it (evaluation.every={max(1, steps // 5)})"
        )
    return lines


def _named(model: ModelConfig) -> str:
    """Family and size: `bert 12x768`, `bart 6+6x768`, `t5 encoder 12x768`."""
    depths = "+".join(str(stack.depth) for stack in model.stacks)
    part = f" {model.stacks[0].name}" if model.left_out else ""
    return f"{model.name}{part} {depths}x{model.hidden_size}"


def write_summary(built: Built, run_dir: Path, outcome: Outcome) -> None:
    """`summary.json`: the facts of a run that are not metrics, the same however often it is
    written."""
    config, first = built.config, next(iter(built.streams.values()))
    split = first.config.validation or "train"
    facts: dict[str, Any] = {
        "name": run_dir.name,
        "model": _named(config.model),
        "objective": " + ".join(
            "/".join(part for part in (name, loss) if part)
            for name, opened in built.streams.items()
            for loss in opened.config.objective.losses
        ),
        "losses": {
            key: facts
            for name, opened in built.streams.items()
            for key, facts in _loss_facts(name, opened.config.objective).items()
        },
        "parameters": num_parameters(built.work.program.model.abstract()),
        "steps": outcome.step,
        "frozen_arrays": outcome.frozen_arrays,
    }
    if shares := built.work.program.draws.shares(0):
        facts["mixture"] = shares
    if split in first.unigram_entropy:
        facts["unigram_entropy"] = first.unigram_entropy[split]
    with atomic_write(run_dir / "summary.json") as file:
        json.dump(facts, file, indent=2)


def _loss_facts(stream: str, objective: Objective) -> Mapping[str, Any]:
    """The losses by what they are called in metrics."""
    facts = {
        loss_key(name): {
            "shown": loss.shown or name.replace("_", " "),
            "per_token": loss.per_token,
            "sees_both_sides": loss.sees_both_sides,
        }
        for name, loss in objective.losses.items()
    }
    return prefixed(stream, facts)

"""What a model makes of the held-out documents of both domains, before it is adapted and after.

`adaptation.json` in the run's directory has them, so that a run that is resumed does not measure
what is behind it again.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxssl.checkpoint.init_config import InitConfig
from jaxssl.checkpoint.manager import CheckpointManager
from jaxssl.checkpoint.origin import open_origin
from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.core.json_files import JsonObject, read_json
from jaxssl.core.keys import numbered_seed
from jaxssl.data.store.store import TokenStore
from jaxssl.objectives.base import Objective
from jaxssl.parallel import hosts
from jaxssl.parallel.mesh import replicated
from jaxssl.program.by_position import language_term, make_position_step
from jaxssl.run.adapting.plan import of_store
from jaxssl.run.adapting.request import text_streams
from jaxssl.run.config import RunConfig, StreamConfig
from jaxssl.run.directory import ADAPTATION
from jaxssl.run.feeds import open_split
from jaxssl.run.open import TrainedModel, evaluate_on, fitting_size, open_run
from jaxssl.train import metrics
from jaxssl.train.evaluation import DataPass, over_batches

BUCKETS = 8
"""Of positions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Documents to measure a model on.

    Attributes:
      store: their token store.
      split: its split that they are.
    """

    store: str
    split: str


def base_facts(config: RunConfig, out: Path) -> dict[str, Any]:
    """The checkpoint that a run goes on from: where it is, its step and its checksum. One that has
    saved something went on from what it noted, whichever step is the best now."""
    assert config.init is not None
    if CheckpointManager(out / "checkpoints").steps():
        return read_record(out)["from"]
    source, _ = open_origin(config.init.run_dir).open(config.init, config.checkpoint, None)
    return {
        "run": str(source.run.absolute()),
        "step": source.step,
        "manifest": source.checksum(),
    }


def read_record(out: Path) -> dict[str, Any]:
    """What a run that is being adapted has noted; nothing where there is no such file."""
    path = out / ADAPTATION
    if not os.path.lexists(path):
        return {}
    return read_json(
        path,
        JsonObject,
        what="the record of an adaptation is damaged",
        fix="delete it: what is before the run is measured again",
    )


def write_record(out: Path, record: Mapping[str, Any]) -> None:
    """Writes `adaptation.json`, in the first process."""
    if hosts.is_first():
        with atomic_write(out / ADAPTATION) as file:
            json.dump(record, file, indent=1)
    hosts.barrier("the record of the adaptation is written")


def check_out(out: Path, run: Path) -> None:
    """Refuses a directory that holds a run that was not made by adapting this one.

    Raises:
      UserError: says what it holds.
    """
    if not CheckpointManager(out / "checkpoints").steps():
        return
    noted = read_record(out).get("from")
    if noted is None:
        raise UserError(
            "the directory holds a run that `jaxssl adapt` did not make",
            where=out,
            expected="a new or empty directory, or that of an earlier adaptation of the same run",
            got="a run without adaptation.json",
            fix="choose another directory with --out",
        )
    steps = CheckpointManager(run / "checkpoints").steps()
    init = InitConfig(from_=str(run), step=noted["step"])
    found = None
    if noted["step"] in steps:
        found = open_origin(run).open(init, _unverified(), None)[0].checksum()
    if found != noted["manifest"]:
        raise UserError(
            "the directory holds the adaptation of another run",
            where=out,
            expected=f"step {noted['step']} of {noted['run']}, with checksum "
            f"{str(noted['manifest'])[:12]}...",
            got=f"{run}, " + ("no such step" if found is None else f"checksum {found[:12]}..."),
            fix="give that run, or choose another directory with --out",
        )


def _unverified() -> Any:
    from jaxssl.checkpoint.manager import CheckpointConfig

    return CheckpointConfig(verify=False)


# --- Measuring ----------------------------------------------------------------------------------


def measured(
    run: Path,
    step: int | str,
    domains: Mapping[str, HeldOut],
    *,
    seed: int,
    stream: str | None = None,
    longest: int | None = None,
    batches: int | None = None,
) -> dict[str, dict[str, Any]]:
    """{domain: the numbers of a run's checkpoint on its held-out documents}: `step`, `rows`,
    `loss`, `tokens_per_byte`, `nats_per_token` and `nats_per_byte` of the objective's first loss
    in nats per token, `unknown` (the share of tokens that are), and with `longest` the loss by
    `positions`.

    They are those of `jaxssl evaluate RUN --store STORE --split SPLIT` for a run of this seed.
    Masks are drawn by the seed and the row's number, so those of two models are the same.

    Args:
      seed: of the masks.
      stream: of the run, whose objective and rows are measured; None is its first one of text.
      longest: measures the loss by position, too, in `BUCKETS` parts of so many, as far as the
        model has positions.
      batches: at most so many, spread evenly over each split.
    """
    trained, found = _seeded(open_run(run, step), seed), {}
    streams = text_streams(trained.config)
    chosen = next(iter(streams.values())) if stream is None else streams[stream]
    for name, held_out in domains.items():
        found[name] = _of_domain(trained, chosen, held_out, batches)
        if longest is not None and language_term(chosen.objective) is not None:
            positions = by_position(trained, chosen, held_out, longest, batches)
            found[name]["positions"] = positions
    return found


def _seeded(trained: TrainedModel, seed: int) -> TrainedModel:
    """The same model, measured with the masks of another seed than its run's."""
    train = dataclasses.replace(trained.config.train, seed=seed)
    config = dataclasses.replace(trained.config, train=train)
    return dataclasses.replace(trained, config=config)


def _of_domain(
    trained: TrainedModel, stream: StreamConfig, held_out: HeldOut, batches: int | None
) -> dict[str, Any]:
    objective = stream.objective
    read = of_store(stream, held_out.store)
    data, ratio = open_split(read, held_out.split, trained.config.model, trained.tokenizer)
    size = read.data.batch_size
    values = evaluate_on(trained, data, objective, size, batches, ratio, show=True).values
    token = _token_loss(objective, values)
    rows = min(data.num_rows, (batches or data.num_rows) * fitting_size(trained, size))
    return {
        "step": trained.step,
        "rows": rows,
        "loss": values["loss"],
        "tokens_per_byte": ratio,
        "nats_per_token": token,
        "nats_per_byte": None if token is None or ratio is None else token * ratio,
        "unknown": unknown_share(held_out, trained.vocabulary.special_ids.get("unk")),
    }


def _token_loss(objective: Objective, values: Mapping[str, float]) -> float | None:
    """The first loss in nats per token, if there is one."""
    names = metrics.token_losses(objective)
    return values.get(metrics.loss_key(names[0])) if names else None


def sees_both_sides(objective: Objective) -> bool:
    """Whether its first loss in nats per token guesses a token from both of its sides."""
    names = metrics.token_losses(objective)
    return bool(names) and objective.losses[names[0]].sees_both_sides


def unknown_share(held_out: HeldOut, unknown: int | None) -> float:
    """The share of a split's tokens that are the unknown token."""
    if unknown is None:
        return 0.0
    split, count, chunk = TokenStore.open(held_out.store).split(held_out.split), 0, 1 << 22
    for start in range(0, split.num_tokens, chunk):
        positions = np.arange(start, min(start + chunk, split.num_tokens))
        count += int((split.tokens(positions) == unknown).sum())
    return count / max(1, split.num_tokens)


def by_position(
    trained: TrainedModel,
    stream: StreamConfig,
    held_out: HeldOut,
    longest: int,
    batches: int | None = None,
) -> dict[str, Any]:
    """The loss by the position of a token in its document's part of a row: `edges`, one more than
    buckets, `nats` per token in each (None where there is none), `tokens`.

    The rows are as long as the model has positions, but for `longest` at most.
    """
    term = language_term(stream.objective)
    assert term is not None, stream.objective.name
    objective, number = term
    length = min(longest, trained.config.model.max_positions)
    read = of_store(stream, held_out.store, length)
    data, _ = open_split(read, held_out.split, trained.config.model, trained.tokenizer)
    edges = tuple(np.linspace(0, longest, min(BUCKETS, longest) + 1).round().astype(int).tolist())
    seed = numbered_seed(numbered_seed(trained.config.train.seed, 0), number)
    step = make_position_step(trained.model, objective, trained.vocabulary, edges, seed=seed)
    rows = DataPass(
        data=data,
        mesh=trained.mesh,
        batch_size=fitting_size(trained, read.data.batch_size),
        limit=batches,
        progress="by position",
    )
    nats, tokens = np.zeros((2, len(edges) - 1))
    with trained.in_use():
        step = jax.jit(step, out_shardings=replicated(trained.mesh))
        for sums in over_batches(step, trained.params, rows, check=objective.check_rows):
            nats += sums["nats"]
            tokens += sums["tokens"]
    means = [float(n / t) if t else None for n, t in zip(nats, tokens)]
    return {"length": length, "edges": edges, "nats": means, "tokens": tokens.astype(int).tolist()}

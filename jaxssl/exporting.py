"""`jaxssl export`: a run as a Hugging Face directory, which `transformers` and its kin load.

from jaxssl import exporting
exporting.export("runs/reuters", "reuters-hf")
"""

import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxssl.checkpoint.hf.safetensors import NAMES
from jaxssl.checkpoint.hf.writing import SHARD_BYTES, write_directory
from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import canonical, layer_range
from jaxssl.core.names import flatten, unflatten
from jaxssl.data.manifest import ROLES
from jaxssl.data.tokenizer_export import check_written, write_tokenizer
from jaxssl.data.tokenizer_loading import with_tokens
from jaxssl.imported_config import GENERATION, ImportedConfig
from jaxssl.imported_task import pooling
from jaxssl.models.bert import RobertaConfig
from jaxssl.models.layers import unbox
from jaxssl.models.model import num_parameters
from jaxssl.run import RunConfig
from jaxssl.tasks.answer import Answer
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.pooling import PoolingChoice, resolve
from jaxssl.tasks.regress import Regress
from jaxssl.tasks.tag import Tag
from jaxssl.trained import TrainedModel, heads_of, open_run, purpose_of

CARD = "README.md"
PAD = "<pad>"
TOKENS = "embeddings/tokens/embedding"


def export(
    run_dir: str | Path,
    out: str | Path,
    *,
    step: int | str = "best",
    dtype: str | None = None,
    layers: Sequence[str] = (),
    shard_bytes: int = SHARD_BYTES,
) -> str:
    """Writes a run's model, tokenizer and model card to a new directory.

    Args:
      step: a number, "last" or "best".
      dtype: of the weights, float32, float16 or bfloat16; None keeps the parameters'.
      layers: hardware files and overrides over the run's configuration.
      shard_bytes: the most that one file of weights holds.

    Returns:
      The class of `transformers` that loads it.

    Raises:
      UserError: no such run, a model that no class of `transformers` has, or `out` is there.
    """
    out = Path(out)
    if out.exists():
        raise UserError(
            "there is something here already",
            where=out,
            expected="a new directory",
            got="a directory" if out.is_dir() else "a file",
            fix="choose another, or delete it",
        )
    trained = open_run(run_dir, step, layers)
    heads, more = _heads(trained)
    if "row" in heads and trained.model.config.causal:
        trained = _with_padding(trained)
    _check_roberta(trained)
    dtype = dtype or trained.config.precision.parameters
    if dtype not in {np.dtype(known).name for known in NAMES if known.kind not in "biu"}:
        raise UserError(
            "no dtype of weights", where="dtype", expected="float32, float16, bfloat16", got=dtype
        )
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex[:16]}.tmp")
    temporary.mkdir(parents=True)
    try:
        frames = "causal_lm" not in heads and bool(heads)
        write_tokenizer(
            trained.tokenizer,
            temporary,
            frames=frames,
            has_types=trained.model.config.around().type_rows > 1,
            max_length=trained.model.config.max_positions,
        )
        name = write_directory(
            temporary,
            trained.model.config,
            heads,
            _parameters(trained),
            dtype=dtype,
            more={**_special_ids(trained), **more},
            shard_bytes=shard_bytes,
        )
        check_written(trained.tokenizer, temporary, frames=frames)
        if "causal_lm" in heads:
            _write_json(temporary / GENERATION, _generation(trained, Path(run_dir)))
        (temporary / CARD).write_text(_card(trained, Path(run_dir), name), encoding="utf-8")
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return name


def _with_padding(trained: TrainedModel) -> TrainedModel:
    """With a padding token, if there is none but the end token: causal classifiers of
    `transformers` read the last token that is no padding, and ours is the end. It is a new row of
    the embeddings, unless the table has one to spare."""
    tokenizer = trained.tokenizer
    pad = tokenizer.special_ids["pad"]
    if pad is not None and pad not in tokenizer.frame(False)[2]:
        return trained
    larger = with_tokens(tokenizer, [PAD], role="pad")
    config, params = trained.model.config, flatten(unbox(trained.params))
    missing = larger.vocab_size - config.vocab_size
    if missing > 0:
        table = params[TOKENS]
        zeros = jax.numpy.zeros((missing, table.shape[1]), table.dtype)
        params[TOKENS] = jax.numpy.concatenate([table, zeros])
        config = dataclasses.replace(config, vocab_size=larger.vocab_size)
    model = dataclasses.replace(trained.model, config=config)
    return dataclasses.replace(trained, tokenizer=larger, model=model, params=unflatten(params))


def _check_roberta(trained: TrainedModel) -> None:
    """RoBERTa's class counts positions from the padding token's id."""
    config, pad = trained.model.config, trained.tokenizer.special_ids["pad"]
    if isinstance(config, RobertaConfig) and pad != config.position_offset - 1:
        raise UserError(
            "transformers' class of this family counts positions from the padding token's id",
            where="model.position_offset",
            expected=f"{pad} + 1, one more than the tokenizer's padding token"
            if pad is not None
            else "a tokenizer with a padding token",
            got=config.position_offset,
            fix="train with that offset",
        )


def _parameters(trained: TrainedModel) -> dict[str, list[jax.Array]]:
    """The parameters by canonical name, stacks in their segments."""
    flat = flatten(unbox(trained.params))
    found: dict[str, list[jax.Array]] = {}
    for path in sorted(flat, key=lambda path: layer_range(path) or (0, 0)):
        found.setdefault(canonical(path), []).append(flat[path])
    return found


def _heads(trained: TrainedModel) -> tuple[dict[str, str], dict[str, Any]]:
    """{head there: its name here}, and what `config.json` says of it."""
    config = trained.config
    task = None if isinstance(config, RunConfig) else config.task
    if task is None:
        return {head: head for head in heads_of(config) if isinstance(head, str)}, {}
    if isinstance(task, Classify | Regress):
        more = _check_pooling(task.pooling, trained)
        kind = "regression"
        if isinstance(task, Classify):
            kind = ("single" if not task.multi_label else "multi") + "_label_classification"
            more |= _labels(task.labels)
        else:
            more |= _labels(("LABEL_0",))
        return {"row": task.name}, {**more, "problem_type": kind}
    if isinstance(task, Tag):
        return {"token": task.name}, _labels(task.labels)
    if isinstance(task, Answer):
        return {"span": task.name}, {}
    raise UserError(
        "transformers has no class for this task",
        where="task.name",
        expected="classify, regress, tag or answer",
        got=task.name,
    )


def _labels(labels: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def _check_pooling(choice: PoolingChoice, trained: TrainedModel) -> dict[str, Any]:
    """Refuses a pooling that the family's class does not do; what `config.json` says of it."""
    config = trained.model.config
    how = resolve(choice, config)
    if config.name == "modernbert" and how in ("cls", "mean"):
        return {"classifier_pooling": how}
    if config.name == "bert" and how == "cls" and not config.around().pooler:
        raise UserError(
            "transformers' class of this family has a pooler, and this model none",
            where="model.pooler",
            expected="true",
            got="false",
            fix="fine-tune with model.pooler=true 'init.fresh=[\"pooler/**\"]'",
        )
    wanted = pooling(config, {})
    if how != wanted:
        raise UserError(
            "transformers' class of this family takes something else for a whole text",
            where="task.pooling",
            expected=wanted,
            got=how,
            fix=f"fine-tune with task.pooling={wanted}",
        )
    return {}


def _special_ids(trained: TrainedModel) -> dict[str, int]:
    """Ids of special tokens, as `config.json` has them."""
    ids = trained.tokenizer.special_ids
    named = {f"{role}_token_id": ids.get(role) for role in ROLES if role not in ("unk", "mask")}
    found = {name: id_ for name, id_ in named.items() if id_ is not None}
    if trained.model.config.name == "roberta":
        found.pop("pad_token_id", None)  # it says where positions begin
    elif trained.model.config.causal:
        found.setdefault("pad_token_id", trained.tokenizer.document_end)
    return found


def _generation(trained: TrainedModel, run_dir: Path) -> dict[str, Any]:
    """What the imported model brought, or the ids that end and pad a text."""
    brought = run_dir / GENERATION
    if brought.is_file():
        return json.loads(brought.read_text(encoding="utf-8"))
    tokenizer = trained.tokenizer
    end, pad = tokenizer.document_end, tokenizer.special_ids["pad"]
    return {"eos_token_id": end, "pad_token_id": end if pad is None else pad}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _data_of(config: Any) -> str:
    """What a run was trained on."""
    if isinstance(config, RunConfig):
        return config.data.store
    train = config.data.tables.train
    return getattr(train, "path", None) or train.dataset


def _card(trained: TrainedModel, run_dir: Path, architecture: str) -> str:
    """The model card: what the run's files say of its training."""
    config = trained.config
    facts: dict[str, Any] = {
        "class": f"`{architecture}`",
        "parameters": f"{num_parameters(unbox(trained.params)):,}",
        "trained for": purpose_of(config),
        "precision": config.precision.summary,
    }
    if not isinstance(config, ImportedConfig):
        optimizer = config.optimizer
        facts |= {
            "data": _data_of(config),
            **({"started from": config.init.from_} if config.init else {}),
            "steps": f"{trained.step:,}",
            "batch": f"{config.data.batch_size} rows",
            "optimizer": f"{optimizer.name}, learning rate {optimizer.learning_rate:g}",
            "seed": config.train.seed,
        }
    lines = [
        "---",
        "library_name: transformers",
        "tags: [jaxssl]",
        "---",
        f"# {run_dir.resolve().name}",
        "",
        "Written by jaxssl.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts.items()),
    ]
    scores = run_dir / "scores.json"
    if scores.is_file():
        splits = json.loads(scores.read_text(encoding="utf-8"))["splits"]
        lines += ["", "| split | score | |", "|---|---|---|"]
        lines += [
            f"| {split} | {name} | {value:.4f} |"
            for split, found in splits.items()
            for name, value in found["scores"].items()
            if "/" not in name
        ]
    model = json.dumps(dataclasses.asdict(config.model), default=str, indent=1)
    return "\n".join([*lines, "", "```json", model, "```", ""])

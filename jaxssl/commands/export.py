"""`jaxssl export`: a run as a Hugging Face directory, which `transformers` and its kin load.

from jaxssl.commands import export
export.export("runs/reuters", "reuters-hf")
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxssl.checkpoint.hf.generation import GENERATION, generation_of
from jaxssl.checkpoint.hf.safetensors import NAMES
from jaxssl.checkpoint.hf.sentence import write_sentence
from jaxssl.checkpoint.hf.writing import SHARD_BYTES, write_directory
from jaxssl.commands.export_adapters import write_adapters
from jaxssl.commands.exportable import (
    HfClass,
    check_exportable,
    hf_class,
    with_padding,
    write_tokenizer_for,
)
from jaxssl.core.errors import UserError
from jaxssl.core.files import new_directory, refuse_existing
from jaxssl.core.json_files import read_json
from jaxssl.core.layer_names import canonical, layer_range
from jaxssl.core.names import flatten, unflatten
from jaxssl.data.store.manifest import ROLES
from jaxssl.data.tokenizer.export import check_written
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.models.encoder_decoder import EncoderDecoderConfig
from jaxssl.models.layers import unbox
from jaxssl.models.model import num_parameters
from jaxssl.report.files import Scores
from jaxssl.run.open import TrainedModel, open_run
from jaxssl.run.recipes import read_config
from jaxssl.run.sentences import sentence_of

CARD = "README.md"
TOKENS = "embeddings/tokens/embedding"


def export(
    run_dir: str | Path,
    out: str | Path,
    *,
    step: int | str = "best",
    dtype: str | None = None,
    layers: Sequence[str] = (),
    shard_bytes: int = SHARD_BYTES,
    say: Callable[[str], None] = print,
) -> str:
    """Writes a run's model, tokenizer and model card to a new directory.

    Args:
      step: a number, "last" or "best".
      dtype: of the weights, float32, float16 or bfloat16; None keeps the parameters'.
      layers: hardware files and overrides over the run's configuration.
      shard_bytes: the most that one file of weights holds.
      say: is told of heads that are left out.

    Returns:
      The class of `transformers` that loads it.

    Raises:
      UserError: no such run, a model that no class of `transformers` has, or `out` is there.
    """
    refuse_existing(out)
    if dtype is not None:
        _check_dtype(dtype)
    trained = open_run(run_dir, step, layers, alone=True, as_arrays=True)
    found = _class_of(trained)
    for head in trained.model.heads:
        if head.name not in found.heads.values():
            say(f"left out: {head.name}, which {found.name} does not have")
    if trained.config.peft:
        return _export_adapters(Path(run_dir), trained, found, out, dtype, say)
    trained = _with_padding(trained, found)
    dtype = dtype or trained.config.precision.parameters
    sentence = sentence_of(trained.config)
    with new_directory(out) as directory:
        write_tokenizer_for(found, trained.model.config, trained.tokenizer, directory)
        if sentence:
            write_sentence(directory, sentence, trained.model.config.hidden_size)
        write_directory(
            directory,
            trained.model.config,
            found.heads,
            _parameters(trained),
            dtype=dtype,
            more={**_special_ids(trained), **found.fields},
            shard_bytes=shard_bytes,
        )
        check_written(trained.tokenizer, directory, frames=found.frames, ends=found.ends)
        if "causal_lm" in found.heads:
            _write_json(directory / GENERATION, _generation(trained, Path(run_dir)))
        (directory / CARD).write_text(_card(trained, Path(run_dir), found.name), encoding="utf-8")
    return found.name


def _export_adapters(
    run_dir: Path,
    trained: TrainedModel,
    found: HfClass,
    out: str | Path,
    dtype: str | None,
    say: Callable[[str], None],
) -> str:
    """Writes adapters alone, and the tokenizer beside them."""
    if dtype is not None:
        raise UserError(
            "adapters are written as they were trained",
            where="--dtype",
            expected="none; or the model with them merged: jaxssl merge RUN OUT",
            got=dtype,
        )
    with new_directory(out) as directory:
        write_adapters(run_dir, trained, found, directory, say)
        write_tokenizer_for(found, trained.model.config, trained.tokenizer, directory)
    return found.name


def _check_dtype(dtype: str) -> None:
    if dtype not in {np.dtype(known).name for known in NAMES if known.kind not in "biu"}:
        raise UserError(
            "no dtype of weights", where="dtype", expected="float32, float16, bfloat16", got=dtype
        )


def given_place(out: str | None) -> str:
    """Where the command line says to export to.

    Raises:
      UserError: it does not say.
    """
    if out is None:
        raise UserError(
            "no place to export to",
            where="jaxssl export RUN OUT",
            expected="a new directory, or --check",
            got="none",
        )
    return out


def check(
    run_dir: str | Path,
    out: str | Path | None = None,
    dtype: str | None = None,
    layers: Sequence[str] = (),
) -> str:
    """The class of `transformers` that a run will be exported as; it need not have saved anything.

    Raises:
      UserError: there is none (says what would have one), `out` is there, or no such dtype.
    """
    if out is not None:
        refuse_existing(out)
    if dtype is not None:
        _check_dtype(dtype)
    config = read_config(Path(run_dir), layers)
    tokenizer = load_tokenizer(str(Path(run_dir) / "tokenizer"))
    task = next(iter(config.tasks.values()), None)
    return check_exportable(config.model, config.heads, task, tokenizer).name


def _class_of(trained: TrainedModel) -> HfClass:
    task = next(iter(trained.config.tasks.values()), None)
    return hf_class(trained.model.config, trained.model.heads, task, trained.tokenizer)


def _with_padding(trained: TrainedModel, found: HfClass) -> TrainedModel:
    """With the padding token that the class may need: it is a new row of the embeddings, unless the
    table has one to spare."""
    config, params = trained.model.config, flatten(unbox(trained.params))
    larger = with_padding(found, config, trained.tokenizer)
    missing = larger.vocab_size - config.vocab_size
    if missing > 0:
        table = params[TOKENS]
        zeros = jax.numpy.zeros((missing, table.shape[1]), table.dtype)
        params[TOKENS] = jax.numpy.concatenate([table, zeros])
        config = dataclasses.replace(config, vocab_size=larger.vocab_size)
    model = dataclasses.replace(trained.model, config=config)
    return dataclasses.replace(trained, tokenizer=larger, model=model, params=unflatten(params))


def _parameters(trained: TrainedModel) -> dict[str, list[jax.Array]]:
    """The parameters by canonical name, stacks in their segments."""
    flat = flatten(unbox(trained.params))
    found: dict[str, list[jax.Array]] = {}
    for path in sorted(flat, key=lambda path: layer_range(path) or (0, 0)):
        found.setdefault(canonical(path), []).append(flat[path])
    return found


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
    """What the imported model brought, or the ids that end, pad and start a text."""
    brought = generation_of(run_dir)
    if brought is not None:
        return brought
    tokenizer = trained.tokenizer
    end, pad = tokenizer.document_end, tokenizer.special_ids["pad"]
    found = {"eos_token_id": end, "pad_token_id": end if pad is None else pad}
    config = trained.model.config
    if config.encoder_decoder:
        assert isinstance(config, EncoderDecoderConfig)
        found["decoder_start_token_id"] = config.decoder_start_token_id
    return found


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _card(trained: TrainedModel, run_dir: Path, architecture: str) -> str:
    """The model card: what the run's files say of its training."""
    config = trained.config
    facts: dict[str, Any] = {
        "class": f"`{architecture}`",
        "parameters": f"{num_parameters(unbox(trained.params)):,}",
        "trained for": config.purpose,
        "precision": config.precision.summary.removeprefix("precision: "),
    }
    if config.imported is None:
        optimizer, streams = config.optimizer, config.all_streams.values()
        facts |= {
            "data": ", ".join(stream.data.source for stream in streams),
            **({"started from": config.init.from_} if config.init else {}),
            "steps": f"{trained.step:,}",
            "batch": " and ".join(f"{stream.data.batch_size} rows" for stream in streams),
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
        what, fix = "the scores are damaged", "restore them, or delete them"
        splits = read_json(scores, Scores, what=what, fix=fix)["splits"]
        lines += ["", "| split | score | |", "|---|---|---|"]
        lines += [
            f"| {split} | {name} | {value:.4f} |"
            for split, found in splits.items()
            for name, value in found["scores"].items()
            if "/" not in name and value is not None
        ]
    model = json.dumps(dataclasses.asdict(config.model), default=str, indent=1)
    return "\n".join([*lines, "", "```json", model, "```", ""])

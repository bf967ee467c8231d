"""`jaxssl import`: a Hugging Face directory, or a model of the hub, as a run directory at step 0.

from jaxssl.commands import import_hf
import_hf.import_model("downloads/MiniLM", "runs/minilm")
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from jaxssl.checkpoint import ledger
from jaxssl.checkpoint.hf.directory import TASK_SCOPES, HfDirectory, open_model
from jaxssl.checkpoint.hf.directory import fingerprint as checksum_of
from jaxssl.checkpoint.hf.generation import take_over
from jaxssl.checkpoint.hf.safetensors import CONVERT, SINGLE
from jaxssl.checkpoint.hf.sentence import (
    SentenceConfig,
    module_folders,
    read_sentence,
    transformer_of,
)
from jaxssl.checkpoint.init_config import InitConfig
from jaxssl.checkpoint.manager import CheckpointManager
from jaxssl.checkpoint.parameter_index import HfSource, base_record, index_hf
from jaxssl.commands.imported_adapter import (
    NAME,
    base_of,
    brings_tokens,
    is_adapter,
    parameters_of,
    rows_of,
)
from jaxssl.commands.imported_task import task_of
from jaxssl.core import config as configuration
from jaxssl.core.errors import UserError
from jaxssl.core.files import new_directory, refuse_existing
from jaxssl.core.names import flatten, unflatten
from jaxssl.core.paths import suggestion
from jaxssl.core.precision import Float, Precision
from jaxssl.data.config import ImportedData
from jaxssl.data.tokenizer.loading import load_tokenizer, stated_length, with_tokens
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model, ModelConfig
from jaxssl.parallel.mesh import make_mesh
from jaxssl.parallel.rules import use_layout
from jaxssl.program.state import abstract_params, everything, laid_out
from jaxssl.run.config import Imported, RunConfig
from jaxssl.run.directory import open_run_directory
from jaxssl.run.networks import make_model
from jaxssl.run.recipes import imported_objective, upgraded
from jaxssl.run.sealing import seal_run
from jaxssl.run.tokenizers import make_vocabulary
from jaxssl.transfer.peft.reading import ReadAdapter, read_adapter
from jaxssl.transfer.start import Start, first_params, plan_start

HUB_FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")
NOT_HUB_FILES = ("consolidated*", "*/*")
"""The same weights once more, in other formats."""
DTYPES = ("float32", "bfloat16")
LEAST_SHARE = 0.5
"""Of the vocabulary's rows that have a token. What is padded has nearly all."""
LENGTH = 512
"""The longest row of an imported model, unless told otherwise or its positions are fewer."""


def import_model(
    source: str | Path,
    out: str | Path,
    *,
    dtype: str | None = None,
    drop: Sequence[str] = (),
    tokens: Sequence[str] = (),
    pad_vocab_to: int = 1,
    layers: Sequence[str] = (),
    base: str | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Makes the run directory `out`, which every verb takes that needs no data.

    Args:
      source: a directory with config.json, safetensors and a tokenizer, or a name on the hub; or
        one of an adapter of PEFT's, which comes with its model.
      dtype: of the parameters, float32 or bfloat16; None keeps the files' (float16 needs to be
        told).
      drop: patterns of tensors to leave behind, by their names in the files.
      tokens: to add to the tokenizer. They take rows that the table has to spare, as they are in
        the files, then new ones, which start fresh.
      pad_vocab_to: makes the rows of the token embedding a multiple of this (128 suits
        accelerators).
      layers: overrides over the new run's configuration: `model.max_positions=1024` resizes
        learned positions, `model.unroll=true`.
      base: of an adapter: the model that it is for; None is the one that it names.
      say: is told the ledger.

    Raises:
      UserError: what cannot be read or has no place; nothing is left then.
    """
    refuse_existing(out)
    given = find_source(str(source))
    place = find_source(base_of(given, base)) if is_adapter(given, base) else given
    path = transformer_of(place)
    found = open_model(path)
    adapter = None if place == given else read_adapter(given, found)
    sentence = _sentence(place, found)
    rows = rows_of(adapter, found)
    tokenizer = load_tokenizer(str(given if brings_tokens(adapter, given, found) else path))
    _check_tokens(found, tokenizer, rows, pad_vocab_to)
    if tokens:
        tokenizer = with_tokens(tokenizer, tokens)
    config = RunConfig(
        out=str(out),
        imported=Imported(source=str(source), heads=_plain_heads(found), sentence=sentence),
        model=_with_vocabulary(found.config, max(tokenizer.vocab_size, rows), pad_vocab_to),
        objective=task_of(found),
        data=ImportedData(max_length=min(LENGTH, _room(found, adapter))),
        precision=Precision(parameters=_dtype(found, dtype)),
        peft={} if adapter is None else {NAME: adapter.method},
    )
    config = _changed(config, layers)
    if config.model.left_out != found.config.left_out:
        raise UserError(
            "a model is imported as it is",
            where="model.part",
            expected=getattr(found.config, "part", "both"),
            got=getattr(config.model, "part", "both"),
            fix="import it without, or begin with the directory: init.from=DIR and model.part",
        )
    make_vocabulary(tokenizer, config.model.vocab_size)  # refuses one that has too many pieces
    model = Model(config.model, config.heads, config.precision)
    start = _plan(found, config, model, drop)
    for line in [*start.lines(), *_sentence_lines(sentence)]:
        say(line)
    spare = config.model.vocab_size - tokenizer.vocab_size
    if spare:
        say(f"{spare:,} of {config.model.vocab_size:,} rows of the vocabulary have no token")
    if adapter is not None:
        say(f"adapter {NAME} ({adapter.method.name}) in {len(adapter.modules)} modules")
    with new_directory(out) as directory:
        beside = {} if adapter is None else parameters_of(adapter, found, config)
        _write(directory, config, model, start, tokenizer, path, beside)
    return Path(out)


def _room(found: HfDirectory, adapter: ReadAdapter | None) -> int:
    """Positions of the model that an adapter leaves to a text."""
    taken = 0 if adapter is None else adapter.method.lead + adapter.method.shift
    return found.config.max_positions - taken


def _plain_heads(found: HfDirectory) -> tuple[str, ...]:
    """The heads that are not a task's."""
    return tuple(head for head in found.heads if head not in TASK_SCOPES)


def _sentence(place: Path, found: HfDirectory) -> SentenceConfig | None:
    """How a sentence-transformers directory makes a vector of a text."""
    config, length = found.config, stated_length(found.path)
    return read_sentence(place, config.hidden_size, config.max_positions, length)


def _sentence_lines(sentence: SentenceConfig | None) -> list[str]:
    """What `jaxssl embed` will do with it, in words."""
    if sentence is None:
        return []
    how = " and ".join(sentence.pooling) + ", of length 1" * sentence.normalize
    prompts = ", ".join(repr(name) for name in sentence.prompts)
    default = sentence.default_prompt
    return [
        f"a text's vector: {how}; of at most {sentence.max_length:,} tokens",
        *([f"prompts: {prompts}; by default {default!r}"] if prompts else []),
    ]


def _changed(config: RunConfig, layers: Sequence[str]) -> RunConfig:
    """A configuration with overrides laid over it; without a task, its objective is its heads'."""
    given = configuration.to_dict(config)
    if config.objective is None and config.imported is not None:
        given["objective"] = imported_objective(config.imported.heads)
    changed = configuration.load(RunConfig, [given, upgraded(configuration.combine([], layers))])
    if changed.out != config.out:
        got, expected = changed.out, f"{config.out}, as given"
        raise UserError("two places", where="out", expected=expected, got=got)
    return changed


def _write(
    run_dir: Path,
    config: RunConfig,
    model: Model,
    start: Start,
    tokenizer: Tokenizer,
    source: Path,
    beside: Mapping[str, np.ndarray],
) -> None:
    open_run_directory(config, tokenizer, checksum_of(source), lambda text: None, place=run_dir)
    ledger.write_ledger(run_dir / ledger.FILE_NAME, start.base, start.entries)
    take_over(source, run_dir)
    _save(config, model, start, run_dir, beside)
    seal_run(run_dir)


def _check_tokens(found: HfDirectory, tokenizer: Tokenizer, rows: int, pad_vocab_to: int) -> None:
    """Refuses a tokenizer that cannot be that of a model with so many rows, by its size."""
    tokens = tokenizer.vocab_size
    if tokens > rows and pad_vocab_to == 1:
        raise UserError(
            "the model's vocabulary is smaller than the tokenizer's",
            where=found.path,
            expected=f"at most {rows} tokens",
            got=f"{tokens} in tokenizer {tokenizer.name}",
            fix="if it is the right one, give each token a row, new ones fresh: --pad-vocab-to 8",
        )
    if tokens < rows * LEAST_SHARE:
        raise UserError(
            "the tokenizer has far fewer tokens than the model has rows for",
            where=found.path,
            expected=f"about {rows:,} tokens",
            got=f"{tokens:,} in tokenizer {tokenizer.name}",
            fix="put the tokenizer that the model was trained with beside its weights",
        )


def _with_vocabulary(model: ModelConfig, size: int, multiple: int) -> ModelConfig:
    """The model with a row for each token, and as many more as make them a multiple."""
    if multiple < 1:
        raise UserError(
            "a multiple of nothing", where="--pad-vocab-to", expected="at least 1", got=multiple
        )
    rows = -(-max(size, model.vocab_size) // multiple) * multiple
    return dataclasses.replace(model, vocab_size=rows)


def _plan(found: HfDirectory, config: RunConfig, model: Model, drop: Sequence[str]) -> Start:
    """The ledger: every tensor and every parameter."""
    stored = index_hf(found.path)
    heads = [head for head in found.heads if head in TASK_SCOPES]
    task = next((task.head_name for task in config.tasks.values()), "")
    init = InitConfig(
        from_=str(found.path),
        drop=tuple(drop),
        rename={f"{head}/**": f"{task}/**" for head in heads},
        resize=_resized(found.config, config.model, model),
        cast=True,
    )
    start = plan_start(init, model, stored, (), is_whole=True)
    return dataclasses.replace(start, base=base_record(HfSource(found.path), start.entries))


def _resized(before: ModelConfig, after: ModelConfig, model: Model) -> tuple[str, ...]:
    """The parameters that another vocabulary or other positions make longer or shorter."""
    over = {
        "vocab_size": ("embeddings/tokens/embedding", "masked_lm/bias", "causal_lm/output/kernel"),
        "max_positions": (
            "embeddings/positions/embedding",
            "decoder_embeddings/positions/embedding",
        ),
    }
    there = flatten(unbox(model.abstract()))
    changed = [field for field in over if getattr(before, field) != getattr(after, field)]
    return tuple(name for field in changed for name in over[field] if name in there)


def _save(
    config: RunConfig,
    model: Model,
    start: Start,
    run_dir: Path,
    beside: Mapping[str, np.ndarray],
) -> None:
    """Reads the parameters into their places and saves them as step 0.

    Args:
      beside: parameters that come from elsewhere, by name: an adapter's, and what it was trained
        with.
    """
    whole = make_model(config)
    mesh = make_mesh(config.mesh)
    with use_layout(mesh, config.mesh.layout()):
        abstract = laid_out(abstract_params(model), mesh)
        params = first_params(start, model, 0, abstract, everything)
        leaves = flatten(laid_out(abstract_params(whole), mesh))
        placed = {
            path: jax.device_put(x.astype(leaves[path].dtype), leaves[path].sharding)
            for path, x in beside.items()
        }
        params = unflatten({**flatten(params), **placed})
        manager = CheckpointManager(run_dir / "checkpoints", config.checkpoint, compress=False)
        try:
            manager.save(0, {"params": params}, {})
            manager.wait()
        finally:
            manager.close()


def _dtype(found: HfDirectory, wanted: str | None) -> Float:
    """The dtype of the parameters: as told, or the files' own."""
    there = {leaf.dtype for leaf in found.leaves().values()}
    if wanted is None and len(there) == 1 and (only := there.pop()) in DTYPES:
        return cast(Float, only)
    if wanted not in DTYPES:
        raise UserError(
            "the dtype of the parameters must be told"
            if wanted is None
            else "parameters are kept in no such dtype",
            where="--dtype",
            expected=" or ".join(DTYPES),
            got=wanted or f"files with {', '.join(sorted(there))}",
        )
    return cast(Float, wanted)


def find_source(source: str) -> Path:
    """The directory of a model: `source`, or where the hub's copy of it is.

    Raises:
      UserError: no such directory, and the hub has it not or cannot be reached.
    """
    path = Path(source)
    is_name = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) and not source.startswith(".")
    if path.exists() or not is_name:
        return path
    try:
        path = _fetch(source)
    except UserError:
        raise
    except Exception as error:  # whatever its HTTP library raises
        message = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            "no such directory, and the hub's model of this name cannot be had",
            where=source,
            expected="a directory with config.json, or a model's name on the hub",
            got=message[0],
            fix=suggestion(path)
            or "check the name; without a network, give the path of a directory"
            + (" (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""),
        ) from error
    if not any(transformer_of(path).glob("*.safetensors")):
        _refuse_pickled(source)
    return path


def _fetch(source: str) -> Path:
    """The hub's copy of a model: the files at its top, and in the folders of its modules."""
    from huggingface_hub import snapshot_download

    top: dict[str, Any] = {"allow_patterns": [*HUB_FILES], "ignore_patterns": [*NOT_HUB_FILES]}
    path = Path(snapshot_download(source, **top))
    if folders := module_folders(path):
        inside = [f"{folder}/{pattern}" for folder in folders for pattern in HUB_FILES]
        snapshot_download(source, allow_patterns=inside)
    return path


def _refuse_pickled(source: str) -> None:
    """Says so where the hub's model has its weights in pickled files alone, which were not
    fetched."""
    from huggingface_hub import list_repo_files

    try:
        pickled = [name for name in list_repo_files(source) if name.endswith(".bin")]
    except Exception:  # no network: what is here is opened, and told to lack its weights
        return
    if pickled:
        raise UserError(
            "there are no safetensors in this model of the hub",
            where=source,
            expected=SINGLE,
            got=", ".join(pickled[:4]),
            fix=CONVERT,
        )

"""Using what a run has trained: evaluation, generation, filling masks.

from jaxssl import trained
model = trained.open_run("runs/books")
trained.fill_masks("runs/books", ["It was the best of [MASK]."])
"""

import contextlib
import dataclasses
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxssl.checkpoint.hf.directory import is_hf_directory
from jaxssl.checkpoint.ledger import InitConfig
from jaxssl.checkpoint.manager import CheckpointManager
from jaxssl.checkpoint.stored import stored_run
from jaxssl.core import config as configuration
from jaxssl.core.errors import UserError
from jaxssl.core.keys import init_key
from jaxssl.core.names import flatten
from jaxssl.core.types import Params, Vocabulary
from jaxssl.data.labelled import LabelledData, row_lengths
from jaxssl.data.loader import Data, DataConfig, StoreData, open_rows
from jaxssl.data.store import TokenStore, check_tokenizer, check_vocabulary
from jaxssl.data.tables import read_table
from jaxssl.data.tokenizer import Tokenizer, load_tokenizer
from jaxssl.finetune_config import FinetuneConfig, as_data, read_split
from jaxssl.generate.decode import Sampling
from jaxssl.imported_config import ImportedConfig
from jaxssl.models.heads import Head
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model, check_length
from jaxssl.parallel import hosts
from jaxssl.parallel.mesh import MeshConfig, batch_shards, make_mesh, replicated
from jaxssl.parallel.rules import make_rules, use_layout
from jaxssl.run import RunConfig, find_recipe, make_vocabulary, tokens_per_byte
from jaxssl.tasks.registry import TaskConfig
from jaxssl.train.evaluation import Evaluation, evaluate
from jaxssl.train.samples import continue_texts, fill_text
from jaxssl.train.state import everything, laid_out
from jaxssl.train.step import make_eval_step
from jaxssl.transfer.start import Start, first_params, plan_start

SAMPLING = Sampling()
VERB_HEADS = {"generate": "causal_lm", "fill-mask": "masked_lm"}
"""The head that a verb asks."""


@dataclass(frozen=True)
class TrainedModel:
    """A run's model with its parameters, and nothing of its optimizer.

    Attributes:
      mesh: what the parameters are laid out over.
      step: the checkpoint's.
    """

    config: RunConfig | FinetuneConfig | ImportedConfig
    model: Model
    params: Params
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    mesh: Mesh
    step: int

    def in_use(self) -> contextlib.AbstractContextManager[None]:
        """Inside, arrays are laid out as the run's are."""
        return use_layout(self.mesh, make_rules(self.config.mesh.rules))


def open_run(
    run_dir: str | Path, step: int | str = "best", layers: Sequence[str] = ()
) -> TrainedModel:
    """Restores the parameters of a run.

    Args:
      step: a number, "last", or "best" (lowest validation loss, or the last without any).
      layers: hardware files and overrides (`mesh.fsdp=8`, `distributed.auto=true`) over the run's
        configuration.

    Raises:
      UserError: no run there, no such step, a damaged checkpoint.
    """
    run_dir = Path(run_dir)
    config = read_run_config(run_dir, layers)
    hosts.connect(config.distributed)
    manager = CheckpointManager(run_dir / "checkpoints", config.checkpoint)
    chosen = hosts.first_decides(lambda: manager.choose(step))
    tokenizer = load_tokenizer(str(run_dir / "tokenizer"))
    model = Model(config.model, heads_of(config), config.precision)
    mesh = mesh_here(config.mesh)
    start = stored_start(run_dir, manager.path(chosen), model, config)
    with use_layout(mesh, make_rules(config.mesh.rules)):
        abstract = laid_out(model.abstract(), mesh)
        params = first_params(start, model, init_key(0), abstract, everything)
    vocabulary = make_vocabulary(tokenizer, config.model.vocab_size)
    return TrainedModel(config, model, params, tokenizer, vocabulary, mesh, chosen)


def heads_of(config: RunConfig | FinetuneConfig | ImportedConfig) -> tuple[Head, ...]:
    """The heads of a run's model."""
    if not isinstance(config, ImportedConfig):
        return config.objective.heads
    return (*config.heads, *(config.task.heads if config.task else ()))


def purpose_of(config: RunConfig | FinetuneConfig | ImportedConfig) -> str:
    """What a run was trained to do, in a word or two."""
    if isinstance(config, ImportedConfig):
        heads = [*config.heads, *([config.task.name] if config.task else [])]
        return f"imported from {config.imported}, with {', '.join(heads) or 'no head'}"
    return config.objective.name


def stored_start(
    run_dir: Path,
    checkpoint: Path,
    model: Model,
    config: RunConfig | FinetuneConfig | ImportedConfig,
) -> Start:
    """Where the parameters of a run lie: what it trained, and what its base holds.

    Raises:
      UserError: not the parameters of this model, or of another base.
    """
    init, moved = getattr(config, "init", None), None
    if init is not None and init.run_dir.is_dir():  # else where it was when the run began
        moved = init.run_dir
    stored = stored_run(run_dir, checkpoint, moved, verify=config.checkpoint.verify)
    start = InitConfig(from_=str(run_dir), cast=True)  # averages are float32, whatever they are of
    return plan_start(start, model, stored, (), is_whole=True)


def mesh_here(config: MeshConfig) -> Mesh:
    """The run's mesh where this machine has the devices for it, else one of whole replicas."""
    devices = jax.device_count()
    try:
        return make_mesh(config)
    except UserError:
        print(
            f"the run's mesh does not fit the {devices} device{'s' * (devices > 1)} here: "
            "each holds all parameters",
            file=sys.stderr,
        )
        return make_mesh(MeshConfig())


def read_run_config(
    run_dir: Path, layers: Sequence[str] = ()
) -> RunConfig | FinetuneConfig | ImportedConfig:
    """The configuration in a run directory, with `layers` on top.

    How the run's processes found each other is left out: it was true of its own cluster alone.

    Raises:
      UserError: it is not a run directory.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise UserError(
            "not a run directory",
            where=run_dir,
            expected="a directory with config.yaml, as pretrain, finetune and import make",
            got="no such directory" if not run_dir.is_dir() else "no config.yaml in it",
            fix=f"jaxssl import {run_dir} NEW_DIRECTORY"
            if is_hf_directory(run_dir)
            else "give the directory that `out` named when the run was trained",
        )
    kept = {key: v for key, v in configuration.read_yaml(path).items() if key != "distributed"}
    files = [find_recipe(layer) for layer in layers if "=" not in layer]
    kind = FinetuneConfig if "task" in kept else RunConfig
    kind = ImportedConfig if "imported" in kept else kind
    return configuration.load(kind, [kept, *files], [x for x in layers if "=" in x])


def evaluate_run(
    run_dir: str | Path,
    *,
    split: str = "validation",
    step: int | str = "best",
    store: str | None = None,
    batches: int | None = None,
    layers: Sequence[str] = (),
) -> dict[str, float]:
    """Loss and metrics of a run's checkpoint over a split, each row counted once.

    Args:
      split: the store's.
      step: a number, "last" or "best".
      store: another token store than the run's own, made with the same tokenizer.
      batches: at most so many, spread evenly over the split; None is all of it.
      layers: hardware files and overrides over the run's configuration.

    Returns:
      `step`, `rows` (how many were read), and the numbers: `loss`, `loss/<objective>`,
      `perplexity`, `bits_per_byte`, `accuracy/<objective>`.
    """
    trained = open_run(run_dir, step, layers)
    data, ratio = _open_data(trained, split, store)
    values = evaluate_on(trained, data, batches, ratio).values
    size = eval_batch_size(trained)
    rows = data.num_rows if batches is None else min(data.num_rows, batches * size)
    return {"step": trained.step, "rows": rows, **values}


def evaluate_on(
    trained: TrainedModel,
    data: Data,
    batches: int | None = None,
    tokens_per_byte: float | None = None,
    *,
    show: bool = True,
) -> Evaluation:
    """Loss, metrics and predictions of a trained model over data; see `evaluate_run`."""
    config = trained.config
    objective = config.objective
    seed = 0 if isinstance(config, ImportedConfig) else config.train.seed
    step = make_eval_step(trained.model, objective, trained.vocabulary, seed=seed)
    with trained.in_use():
        return evaluate(
            jax.jit(step, out_shardings=replicated(trained.mesh)),
            objective,
            trained.params,
            data,
            trained.mesh,
            batch_size=eval_batch_size(trained),
            limit=batches,
            tokens_per_byte=tokens_per_byte,
            show=show,
        )


def eval_batch_size(trained: TrainedModel) -> int:
    """The run's batch size, rounded up to what divides over the devices there are now."""
    with trained.in_use():
        size, shards = trained.config.data.batch_size, batch_shards(trained.mesh)
    return -(-size // shards) * shards


def _open_data(trained: TrainedModel, split: str, store: str | None) -> tuple[Data, float | None]:
    """A split of what the run was trained on, or of another store; its tokens for each byte."""
    config = trained.config
    if isinstance(config, ImportedConfig) and config.task is not None:
        return _read_table(config, config.task, trained.tokenizer), None
    if isinstance(config, FinetuneConfig):
        if store is not None:
            raise UserError(
                "a fine-tuned run has no token store",
                where="--store",
                expected="--split, or other files: --with data.tables.test.path=FILE",
                got=store,
            )
        return read_split(config, trained.tokenizer, split), None
    rows = _rows_config(config, store)
    opened = TokenStore.open(rows.store)
    check_tokenizer(opened, trained.tokenizer.fingerprint)
    check_vocabulary(opened, config.model.vocab_size)
    return StoreData(open_rows(rows, split, opened)), tokens_per_byte(opened, split)


def _rows_config(config: RunConfig | ImportedConfig, store: str | None) -> DataConfig:
    """The rows of the run's token store, or of another."""
    if not isinstance(config, ImportedConfig):
        return config.data if store is None else dataclasses.replace(config.data, store=store)
    if store is None:
        raise UserError(
            "an imported model has no data of its own",
            where="--store",
            expected="a token store made with its tokenizer",
            got="none",
            fix=f"jaxssl prepare tokenizer={config.out}/tokenizer source=... out=STORE",
        )
    data = config.data
    check_length(config.model, data.max_length, "data.max_length")
    return DataConfig(store=store, sequence_length=data.max_length, batch_size=data.batch_size)


def _read_table(config: ImportedConfig, task: TaskConfig, tokenizer: Tokenizer) -> LabelledData:
    """The labelled data that an imported model is asked to be evaluated on."""
    data = config.data
    if data.table is None:
        raise UserError(
            "an imported model has no data of its own",
            where="data.table",
            expected="labelled data",
            got="none",
            fix="name a file: --with data.table.path=FILE",
        )
    check_length(config.model, data.max_length, "data.max_length")
    table = read_table(data.table)
    encoded = task.encode(table, tokenizer, data.max_length, table.source)
    return as_data(encoded, row_lengths(encoded.examples.lengths, 4))


def generate_texts(
    run_dir: str | Path,
    prompts: Sequence[str],
    sampling: Sampling = SAMPLING,
    step: int | str = "best",
    layers: Sequence[str] = (),
) -> list[str]:
    """What a causal run writes after each prompt; an empty prompt starts a document."""
    trained = open_run(run_dir, step, layers)
    _check_head(trained, "generate")
    with trained.in_use():
        return continue_texts(
            trained.model,
            trained.params,
            trained.tokenizer,
            trained.vocabulary,
            tuple(prompts),
            sampling,
            getattr(getattr(trained.config, "data", None), "sequence_length", None),
            _document_start(trained),
        )


def _document_start(trained: TrainedModel) -> list[int]:
    """What begins a document: nothing in a token store, and with models of elsewhere what their
    tokenizer's template puts there."""
    own = trained.tokenizer.template(False)
    return own[0] if own is not None and isinstance(trained.config, ImportedConfig) else []


def fill_masks(
    run_dir: str | Path,
    texts: Sequence[str],
    top: int = 5,
    step: int | str = "best",
    layers: Sequence[str] = (),
) -> list[list[list[dict[str, Any]]]]:
    """For each text, for each mask in it, the likeliest tokens: `{"token", "probability"}`."""
    trained = open_run(run_dir, step, layers)
    _check_head(trained, "fill-mask")
    mask = trained.tokenizer.token(trained.vocabulary.special_ids["mask"]) or "[MASK]"
    for text in texts:
        if mask not in text:
            other = re.search(r"\[mask\]|<mask>|\[\[mask\]\]|_{2,}|\{mask\}|\bMASK\b", text, re.I)
            raise UserError(
                "there is nothing to fill",
                where=repr(text),
                expected=f"{mask} in the text, as this run's tokenizer spells a mask",
                got=repr(other[0]) if other else "no mask",
                fix=f"write {mask} where a word is wanted",
            )
    model, params, vocabulary = trained.model, trained.params, trained.vocabulary
    with trained.in_use():
        return [
            fill_text(model, params, trained.tokenizer, vocabulary, text, top) for text in texts
        ]


def _check_head(trained: TrainedModel, verb: str) -> None:
    able = [other for other, head in VERB_HEADS.items() if head in trained.model.heads]
    if verb not in able:
        raise UserError(
            f"this run cannot {verb}",
            where="the run's objective",
            expected=f"a run trained with {VERB_HEADS[verb]}",
            got=purpose_of(trained.config),
            fix=f"try `jaxssl {(*able, 'embed')[0]}`",
        )


def shapes_of(params: Params) -> dict[str, Any]:
    """{name: (shape, dtype)} of parameters, for `jaxssl inspect`."""
    return {name: (leaf.shape, str(leaf.dtype)) for name, leaf in flatten(unbox(params)).items()}

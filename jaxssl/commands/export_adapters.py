"""The adapters of a run as PEFT's files: one in the directory, several each in a folder of its
name."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from jaxssl.checkpoint.hf.directory import CONFIG
from jaxssl.commands.beside_adapters import changed_rows
from jaxssl.commands.exportable import HfClass
from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import ADAPTERS
from jaxssl.core.names import unflatten
from jaxssl.run.open import TrainedModel
from jaxssl.run.whole import whole_arrays
from jaxssl.transfer.peft.base import Method
from jaxssl.transfer.peft.files import write_adapter
from jaxssl.transfer.peft.merge import by_module
from jaxssl.transfer.peft.rows import Rows
from jaxssl.transfer.peft.tokens import Tokens


def write_adapters(
    run_dir: Path,
    trained: TrainedModel,
    found: HfClass,
    directory: Path,
    say: Callable[[str], None],
) -> None:
    """Writes PEFT's files of each adapter.

    Args:
      run_dir: of the run.
      found: the class of `transformers` that the model is without them.

    Raises:
      UserError: an adapter that PEFT cannot read.
    """
    whole = whole_arrays(trained.params)
    added = {
        path.removeprefix(f"{ADAPTERS}/"): x
        for path, x in whole.items()
        if path.startswith(f"{ADAPTERS}/")
    }
    modules = by_module(unflatten(added), trained.model.adapters)
    heads = {"pooler", *found.heads.values()} - {h.name for h in trained.model.heads if h.use}
    kept = {path: x for path, x in whole.items() if path.split("/")[0] in heads}
    biases = {path: x for path, x in whole.items() if path.endswith("/bias")}
    trains_biases = any(getattr(x, "bias", "none") != "none" for x in trained.config.peft.values())
    changed = changed_rows(run_dir, trained, whole, {*kept, *(biases if trains_biases else ())})
    methods, rows = _with_tokens(trained.config.peft, modules, whole, changed)
    base = _base(trained)
    for name, method in methods.items():
        place = directory if len(methods) == 1 else directory / name
        place.mkdir(exist_ok=True)
        write_adapter(
            place,
            method,
            modules.get(name, {}),
            kept,
            shapes={path: x.shape for path, x in whole.items()},
            config=trained.model.config,
            heads=found.heads,
            architecture=found.name,
            base=base,
            biases=biases,
            rows=rows,
        )
    if changed:
        size = trained.model.config.vocab_size
        say(f"with rows of tokens: give the model {size} first, resize_token_embeddings({size})")
    say(
        f"adapters for PeftModel.from_pretrained(transformers.{found.name}, ...), of "
        + (base or "the model that the run started from: jaxssl export writes it, too")
    )


def _with_tokens(
    methods: Mapping[str, Method],
    modules: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
    whole: Mapping[str, np.ndarray],
    rows: Mapping[str, Rows],
) -> tuple[Mapping[str, Method], dict[str, Rows]]:
    """What files are written of, and the rows of tables that go along: those that adapters of
    tokens change beside the others, which then are no adapters of their own.

    Raises:
      UserError: rows beside several adapters.
    """
    others = {name: x for name, x in methods.items() if not isinstance(x, Tokens)}
    tables, found = dict(whole), dict(rows)
    for name, method in methods.items():
        if isinstance(method, Tokens):
            made = method.in_whole(tables, modules[name])
            tables |= {table: each.put(tables[table], table) for table, each in made.items()}
            for table, each in made.items():
                before = found[table].indices if table in found else ()
                ids = tuple(sorted({*before, *each.indices}))
                found[table] = Rows.of(tables[table], ids, table)
    if found and len(others) > 1:
        raise UserError(
            "rows of tokens are of one adapter in PEFT's files",
            where="peft",
            expected="one adapter, or one beside those of tokens",
            got=", ".join(methods),
            fix="merge, and export the whole model: jaxssl merge RUN OUT",
        )
    if not others:  # one list of tokens for all tables
        ids = tuple(sorted({i for each in found.values() for i in each.indices}))
        found = {table: Rows.of(tables[table], ids, table) for table in found}
        others = {next(iter(methods)): Tokens(ids=ids)}
    return others, found


def _base(trained: TrainedModel) -> str | None:
    """The directory of Hugging Face that the run started from, or None if it was another run."""
    init = trained.config.init
    if init is None or not (init.run_dir / CONFIG).is_file():
        return None
    return str(init.run_dir)

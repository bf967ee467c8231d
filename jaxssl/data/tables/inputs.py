"""Files that no recipe describes: given by their path, a format and options."""

import dataclasses
from collections.abc import Iterable

from jaxssl.core import config as configuration
from jaxssl.core.errors import UserError
from jaxssl.data.tables.config import MEANT_FOR, TableFile, TableHub, ending

TEXT_ENDING = ".txt"


SECTIONS = ("task", "model", "data", "mesh", "precision", "train", "evaluation", "peft")
"""Of a run's configuration, which say nothing of how a file is read."""


def input_file(
    path: str, format: str = "auto", options: Iterable[str] = (), column: str | None = None
) -> TableFile:
    """How a file is read. With format `auto`, .txt is a text a line.

    Args:
      path: a file, or a glob of several.
      options: fields of `TableFile`, as `delimiter=;`; `format` is one, too.
      column: what the texts of a file of lines are called; None refuses such a file.

    Raises:
      UserError: an option that there is not, or that the format has not; a format unknown.
    """
    options = list(options)
    keys = [text.partition("=")[0] for text in options]
    wrong = [
        text
        for text, key in zip(options, keys)
        if "=" not in text or key == "path" or key.partition(".")[0] in SECTIONS
    ]
    if wrong:
        raise UserError(
            "an option of the input that cannot be used",
            where=f"--set {wrong[0]}",
            expected="key=value, for a field of a file of labelled data other than its path: "
            + ", ".join(sorted({*MEANT_FOR, "format"})),
            got=wrong[0],
            fix=f"a field of the run is given with --with {wrong[0]}"
            if wrong[0].partition(".")[0] in SECTIONS
            else None,
        )
    given = configuration.combine([{"path": path, "format": format}], options)
    if given["format"] == "auto" and ending(path) == TEXT_ENDING:
        given["format"] = "lines"
    if given["format"] == "lines":
        if column is None:
            raise UserError(
                "lines of text are not what this task reads",
                where=path,
                expected="a table with the columns that the task names",
                got="one text a line",
                fix="give jsonl, CSV or another table; for one in a .txt file, add --format",
            )
        given.setdefault("columns", [column])
    return configuration.build(TableFile, given)


def unused_options(known: TableFile | TableHub, file: TableFile) -> str | None:
    """What to tell of options of a known file that one of the same format is read without."""
    if not isinstance(known, TableFile) or known.kind != file.kind:
        return None
    plain = TableFile(path=known.path, format=known.format)
    fields = [field.name for field in dataclasses.fields(TableFile) if field.name in MEANT_FOR]
    unused = [
        f"{name}={getattr(known, name)!r}"
        for name in fields
        if getattr(known, name) != getattr(plain, name) == getattr(file, name)
    ]
    if not unused:
        return None
    return f"{file.path} is read without the options of {known.path}: {', '.join(unused)}"

"""Where labelled data come from: configurations of files, hub data sets and their splits."""

import dataclasses
from pathlib import Path
from typing import Literal

from jaxssl.core.bounds import check_at_least, check_seed, check_unused, default_of
from jaxssl.core.errors import UserError

Format = Literal[
    "auto", "csv", "tsv", "jsonl", "parquet", "conll", "conllu", "json", "squad", "lines"
]

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".conllu": "conllu",
    ".json": "json",
}
"""What `format=auto` makes of the end of a file's name, the packing's own ending taken off."""
PACKED = (".gz", ".bz2", ".xz", ".zst")
MEANT_FOR = {
    "columns": ("csv", "tsv", "lines"),
    "quoting": ("csv", "tsv"),
    "skip_lines": ("csv", "tsv"),
    "ragged_rows": ("csv", "tsv"),
    "delimiter": ("csv", "tsv", "conll"),
    "positions": ("conll",),
    "comment_prefix": ("conll",),
    "records": ("json",),
    "encoding": ("csv", "tsv", "jsonl", "conll", "conllu", "json", "squad", "lines"),
    "class_ids": ("parquet",),
}
"""Options of `TableFile` that only some formats have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableFile:
    """A file of labelled data."""

    name: Literal["file"] = "file"
    """A file, or several."""
    path: str
    """The file, or a glob of several with the same columns; .gz, .bz2, .xz and .zst are
    unpacked."""
    format: Format = "auto"
    """auto goes by the name's end: .csv; .tsv, .tab; .jsonl, .ndjson; .parquet; .conll, .bio, .iob;
    .conllu; .json (not lines; SQuAD's, too). lines is a text a line, and nothing else."""
    columns: tuple[str, ...] | None = None
    """CSV and TSV: names of all columns of a file without a header line; null means that the first
    line is the header. A column without a name in the header is "column 3". Of lines: the one
    column's name; null is "text"."""
    delimiter: str | None = None
    """What parts columns; null is a comma in CSV, a tab in TSV, spaces and tabs in CoNLL."""
    quoting: Literal["auto", "standard", "none"] = "auto"
    """CSV and TSV: standard reads "..." as one value, which may hold delimiters and line ends; none
    takes quotation marks as they are. auto is standard for CSV and none for TSV."""
    skip_lines: int = 0
    """CSV and TSV: lines to leave out below the header (2 for Orange's .tab files), or from the
    start if `columns` is given."""
    ragged_rows: Literal["refuse", "leave_out"] = "refuse"
    """CSV and TSV: what to do with rows of too few or too many values. Those left out are
    counted."""
    positions: dict[str, int] = dataclasses.field(default_factory=lambda: {"words": 0, "tags": -1})
    """CoNLL: names of the columns to read and their positions, from 0, or from the end: -1."""
    comment_prefix: str | None = None
    """CoNLL: lines that begin so are left out; null means no line does."""
    records: str | None = None
    """JSON: the key of the list of rows (a.b is b within a); null finds it."""
    class_ids: bool = False
    """Parquet: keep the numbers of class labels whose names the file knows."""
    encoding: str = "utf-8"
    """Encoding of the text."""

    def __post_init__(self):
        check_at_least(0, self, "skip_lines")
        kind = self.kind
        for field in dataclasses.fields(self):
            meant_for = MEANT_FOR.get(field.name, (kind,))
            if kind not in meant_for and getattr(self, field.name) != default_of(field):
                raise UserError(
                    f"{field.name} means nothing for a file of format {kind}",
                    where=field.name,
                    expected="not given; it is for " + ", ".join(meant_for),
                    got=repr(getattr(self, field.name)),
                )
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '\r\n"'):
            raise UserError(
                "a delimiter is one character",
                where="delimiter",
                expected='one character other than a line end or "',
                got=repr(self.delimiter),
            )
        _check_names(self)
        _check_encoding(self.encoding)

    @property
    def source(self) -> str:
        """Where it lies."""
        return self.path

    @property
    def kind(self) -> str:
        """The format, found out if it is auto."""
        if self.format != "auto":
            return self.format
        suffix = ending(self.path)
        if suffix not in SUFFIXES:
            raise UserError(
                "the name of a file does not tell its format",
                where="format",
                expected="a name that ends in " + ", ".join(SUFFIXES),
                got=self.path,
                fix="set format to csv, tsv, jsonl, parquet, conll, conllu, json, squad or lines",
            )
        return SUFFIXES[suffix]


def ending(path: str) -> str:
    """The end of a file's name in lower case, that of its packing taken off: .csv of a.CSV.gz."""
    name = Path(path)
    return (name.with_suffix("") if name.suffix.lower() in PACKED else name).suffix.lower()


def _check_names(config: TableFile) -> None:
    names = config.columns
    if names is not None and config.kind == "lines" and len(names) != 1:
        raise UserError(
            "a file of lines has one column",
            where="columns",
            expected="one name, or null",
            got=list(names),
        )
    if names is not None and (not names or len(set(names)) < len(names)):
        raise UserError(
            "columns need names of their own",
            where="columns",
            expected="a name for each column, none twice; null if the file has a header",
            got=list(names),
        )
    if not config.positions:
        raise UserError(
            "no columns to read",
            where="positions",
            expected="names and positions, such as {words: 0, tags: -1}",
            got="{}",
        )


def _check_encoding(encoding: str) -> None:
    try:
        if "a\n".encode(encoding) == b"a\n":
            return
        got = f"{encoding}, which does not keep ASCII"
    except LookupError:
        got = encoding
    raise UserError(
        "an encoding that cannot be read line by line",
        where="encoding",
        expected="utf-8, latin-1, cp1252 or another that keeps ASCII",
        got=got,
        fix="convert the file: iconv -f utf-16 -t utf-8",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableHub:
    """One split of a data set of the Hugging Face hub, or of a local folder of one."""

    name: Literal["hub"] = "hub"
    """A data set of the hub."""
    dataset: str
    """Name on the hub ("owner/name"), or a folder that `datasets.load_dataset` reads."""
    config: str | None = None
    """Which of the data set's configurations (subsets)."""
    split: str = "train"
    """Which of the data set's splits; a part of one as "train[:1000]"."""
    revision: str | None = None
    """Branch, tag or commit of the data set; null is the main branch."""
    class_ids: bool = False
    """Keep the numbers of class labels; else they become the classes' names, and -1, which hub
    data sets use for a label withheld, becomes null."""

    @property
    def source(self) -> str:
        """Its name on the hub."""
        return self.dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableSplits:
    """Labelled data in splits: each given, or held out from `train` by seed."""

    train: TableFile | TableHub
    """Data to train on."""
    validation: TableFile | TableHub | None = None
    """Data to choose by; null holds out `validation_fraction` of train."""
    test: TableFile | TableHub | None = None
    """Data to report; null holds out `test_fraction` of train."""
    validation_fraction: float = 0.1
    """Share of train's rows, all of them, that becomes validation data; of no meaning if such data
    are given."""
    test_fraction: float = 0.0
    """Share of train's rows, all of them, that becomes test data."""
    seed: int = 0
    """Which rows are held out. A row's place in the draw depends on seed and row number alone."""
    stratify: bool | None = None
    """Hold out the same share of every label, exactly but for rounding (largest remainders; every
    label keeps a row in train). Null does so if each row has one label that is no fraction."""
    split_by: str | None = None
    """A column whose rows of one value are held out together, as all lines of an episode are: the
    fractions are then of its values. Null holds out rows one by one."""
    per_label: int | None = None
    """Train on so many rows of each label, drawn by `data.seed` after others were held out: what
    few labels do. Of a label that has fewer all are taken, which is told; null takes all rows."""

    def __post_init__(self):
        check_seed(self)
        check_at_least(0, self, "validation_fraction", "test_fraction")
        check_at_least(1, self, "per_label")
        if self.split_by is not None and self.stratify:
            raise UserError(
                "rows are held out by their group or by their label",
                where="split_by, stratify",
                expected="one of both",
                got=f"split_by={self.split_by}, stratify=true",
            )
        held_out = self.test_fraction + (self.validation_fraction if not self.validation else 0)
        if held_out >= 1:
            raise UserError(
                "nothing is left to train on",
                where="validation_fraction, test_fraction",
                expected="less than 1 together",
                got=held_out,
            )
        if self.validation is not None and self.validation_fraction:
            fix = "leave it out or set it to 0, or set validation=null to hold out a part of train"
            check_unused(self, ["validation_fraction"], where="beside validation", fix=fix)
        if self.test is not None and self.test_fraction:
            raise UserError(
                "test data are both given and held out",
                where="test_fraction",
                expected="0, or test=null",
                got=self.test_fraction,
            )
        given = [("train", self.train), ("validation", self.validation), ("test", self.test)]
        for i, (name, config) in enumerate(given):
            same = [other for other, c in given[:i] if c is not None and c == config]
            if same:
                raise UserError(
                    "two splits are the same data",
                    where=name,
                    expected=f"other data than {same[0]}",
                    got=config.path if isinstance(config, TableFile) else config,
                    fix=f"leave {name} out to hold out a part of train",
                )

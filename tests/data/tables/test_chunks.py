"""Tables in chunks: joined they are the whole, and no more is read than was asked for."""

import csv
import gzip
import io
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.read import read_chunks, read_table
from jaxssl.data.tables.table import join

pytestmark = [
    pytest.mark.filterwarnings("error"),
    # Of what other tests left behind, such as coroutines of a save that met a full disk.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TEXT = st.text('",\t;\r\n\u2028\u00e9\U0001f600 #ab', max_size=9)
PLAIN = st.text("ab\u2028\u00e9 \"'", min_size=1, max_size=6)
WORD = st.text("ab\u2028\u00e9\"'-", min_size=1, max_size=6)
SIZES = st.integers(1, 7)


def as_csv(rows):
    out = io.StringIO()
    csv.writer(out).writerows([["a", "b"], *rows])
    return out.getvalue()


def as_parquet(rows):
    import pyarrow
    import pyarrow.parquet

    out = io.BytesIO()
    table = pyarrow.table({"a": [a for a, _ in rows], "b": [[b] for _, b in rows]})
    pyarrow.parquet.write_table(table, out, row_group_size=3)
    return out.getvalue()


def as_squad(rows):
    entries = [{"id": i, "question": a, "answers": []} for i, (a, _) in enumerate(rows)]
    return json.dumps({"data": [{"paragraphs": [{"context": "c", "qas": entries}]}]})


FORMATS = {
    "csv": (TEXT, as_csv, lambda rows: {"a": [a for a, _ in rows], "b": [b for _, b in rows]}),
    "tsv": (
        PLAIN,
        lambda rows: "a\tb\n" + "".join(f"{a}\t{b}\n" for a, b in rows),
        lambda rows: {"a": [a for a, _ in rows], "b": [b for _, b in rows]},
    ),
    "jsonl": (
        TEXT,
        lambda rows: "".join(json.dumps({a: b, "same": 1}) + "\n" for a, b in rows),
        lambda rows: {
            key: [{a: b, "same": 1}.get(key) for a, b in rows]
            for key in {key: 0 for a, b in rows for key in {a: b, "same": 1}}
        },
    ),
    "lines": (
        PLAIN,
        lambda rows: "".join(f"{a}\n" for a, _ in rows),
        lambda rows: {"text": [a for a, _ in rows]},
    ),
    "parquet": (
        TEXT,
        as_parquet,
        lambda rows: {"a": [a for a, _ in rows], "b": [[b] for _, b in rows]},
    ),
    "conll": (
        WORD,
        lambda rows: "".join(f"{a} {b}\n{b} O\n\n" for a, b in rows),
        lambda rows: {"words": [[a, b] for a, b in rows], "tags": [[b, "O"] for _, b in rows]},
    ),
    "squad": (
        TEXT,
        as_squad,
        lambda rows: {
            "id": [str(i) for i in range(len(rows))],
            "title": [""] * len(rows),
            "question": [a for a, _ in rows],
            "context": ["c"] * len(rows),
            "answers": [{"text": [], "answer_start": []}] * len(rows),
        },
    ),
}


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return TableFile(path=str(path), format=path.suffix[1:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("chunks")


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), size=SIZES)
def test_chunks_joined_are_the_whole_and_the_whole_is_what_was_written(folder, name, data, size):
    values, written, columns = FORMATS[name]
    rows = data.draw(st.lists(st.tuples(values, values), min_size=1, max_size=20))
    config = write(folder / f"t.{name}", written(rows))
    whole, chunks = read_table(config), list(read_chunks(config, size))
    assert whole.columns == columns(rows)
    assert join(chunks, whole.source) == whole
    assert all(1 <= len(chunk) <= size and chunk.source == config.path for chunk in chunks)
    if name != "parquet":  # whose batches may end where a row group does
        assert len(chunks) == -(-len(rows) // size)


def outcome(read):
    """What a reading gives: a table and the notes, or the error as it is told."""
    said = []
    try:
        return read(said.append), said
    except UserError as error:
        return str(error), said


LINES = {
    "csv": ["a,b", "1,2", "1,2", "1,2", "1", "1,2,3", '"x\ny",2', '"open', "", "d,continuous"],
    "jsonl": ['{"a": 1}', '{"a": 2}', '{"b": 3}', "", "[1]", "{"],
    "conll": ["a O", "b O", "", "-DOCSTART-", "c", "d B-x I", "# a comment", "#"],
}


@pytest.mark.parametrize(
    ("name", "ragged"),
    [("csv", "refuse"), ("csv", "leave_out"), ("jsonl", "refuse"), ("conll", "refuse")],
)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=SIZES)
def test_mistakes_and_notes_are_those_of_the_whole(folder, name, ragged, data, size):
    lines = data.draw(st.lists(st.sampled_from(LINES[name]), min_size=1, max_size=14))
    path = folder / f"t.{name}"
    path.write_text("\n".join(lines))
    options: dict = {"ragged_rows": ragged} if name == "csv" else {"format": name}
    options |= {"columns": ("a", "b")} if data.draw(st.booleans()) and name == "csv" else {}
    config = TableFile(path=str(path), **options)
    whole = outcome(lambda note: read_table(config, note))
    assert outcome(lambda note: join(list(read_chunks(config, size, note)), str(path))) == whole


@pytest.mark.parametrize("keys", [("ab", "ba"), ("ab", "abc"), ("ab", "a"), ("ab", "ac")])
def test_files_of_a_glob_are_compared_when_all_their_columns_are_known(tmp_path, keys):
    for number, names in enumerate(keys):
        lines = [json.dumps({name: number}) for name in names]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines))
    config = TableFile(path=str(tmp_path / "*.jsonl"))
    whole = outcome(lambda note: read_table(config, note))[0]
    chunked = outcome(lambda note: join(list(read_chunks(config, 1, note)), config.path))[0]
    if set(keys[0]) == set(keys[1]):
        assert whole == chunked and whole.columns["b"] == [None, 0, 1, None]
    else:
        assert "different columns" in str(whole) and "different columns" in str(chunked)


def test_a_row_of_another_width_ends_the_reading_where_it_is_and_all_such_are_counted(tmp_path):
    rows = ["1,2"] * 6 + ["1", "1,2", "1,2,3", "1,2"]
    config = write(tmp_path / "t.csv", "a,b\n" + "\n".join(rows))
    chunks = read_chunks(config, 4)
    assert len(next(chunks)) == 4
    with pytest.raises(UserError, match=r"too few values(?s:.*)t.csv:8(?s:.*)1 more such row"):
        next(chunks)


# --- No more is read than was asked for --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "row", "bad"),
    [
        ("csv", "a,b", '"open,b'),
        ("tsv", "a\tb", b"\xff"),
        ("jsonl", '{"a": 1}', "{"),
        ("conll", "a O\n", "a"),
        ("lines", "a", b"\xff"),
    ],
)
def test_a_mistake_far_down_does_not_keep_the_rows_before_it(tmp_path, name, row, bad):
    good = (row + "\n").encode() * 5000  # more than any buffer on the way holds
    bad = bad if isinstance(bad, bytes) else bad.encode()
    chunks = read_chunks(write(tmp_path / f"t.{name}", good + bad), 3)
    assert [len(next(chunks)) for _ in range(5)] == [3] * 5
    with pytest.raises(UserError, match=r"t\."):
        list(chunks)


def test_a_damaged_row_group_does_not_keep_those_before_it(tmp_path):
    import pyarrow.parquet

    path = tmp_path / "t.parquet"
    path.write_bytes(as_parquet([(str(i), "b") for i in range(9)]))
    groups = pyarrow.parquet.ParquetFile(path).metadata
    start = groups.row_group(2).column(0).dictionary_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)
    chunks = read_chunks(TableFile(path=str(path)), 3)
    assert next(chunks).columns["a"] == ["0", "1", "2"]
    with pytest.raises(UserError, match="not parquet"):
        list(chunks)


def peak(read):
    """How many rows the tables have that `read` gives, and the most bytes that Python held."""
    tracemalloc.start()
    try:
        return sum(map(len, read())), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["csv", "jsonl", "conll", "lines"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    _, written, _ = FORMATS[name]
    config = write(tmp_path / f"t.{name}", written([("ab" * 500, "cd" * 500)] * 3000))
    count, held = peak(lambda: read_chunks(config, 100))
    whole, all_of_it = peak(lambda: [read_table(config)])
    assert count == whole == 3000
    assert held < 2_000_000 and all_of_it > 3_000_000  # a block of 1 MiB is read at a time


def test_half_a_character_is_told_with_its_line(tmp_path):
    config = write(tmp_path / "t.jsonl", '{"a": "x"}\n{"a": "\\ud83d"}\n{"a": "\\ud83d\\ude00"}\n')
    table = read_table(config)
    with pytest.raises(UserError, match="whole characters") as error:
        table.strings("a")
    assert error.value.where == f"{config.path}:2"
    assert table.select([0, 2]).strings("a") == ["x", "\U0001f600"]


def test_a_file_of_lines_is_one_column_with_its_blank_lines(tmp_path):
    path = tmp_path / "t.txt.gz"
    path.write_bytes(gzip.compress(b"one\r\n\ntwo\tthree", mtime=0))
    table = read_table(TableFile(path=str(path), format="lines", columns=("sentence",)))
    assert table.columns == {"sentence": ["one", "", "two\tthree"]}
    assert table.places == [f"{path}:{number}" for number in (1, 2, 3)]
    with pytest.raises(UserError, match="one column"):
        TableFile(path=str(path), format="lines", columns=("a", "b"))


# --- Lines without end ---------------------------------------------------------------------------

ENDLESS = [
    ("csv", "a,b\n1,2\n", "x", ":3"),
    ("csv", 'a,b\n1,2\n3,"open', "\n4,5", ":3"),
    ("tsv", "a\tb\n", "x", ":2"),
    ("jsonl", '{"a": 1}\n', "x", ":2"),
    ("lines", "one\n", "x", ":2"),
    ("conll", "a O\n\n", "x", ":3"),
    ("conll", "a O\n\n", "b O\n", ":3"),
    ("conllu", "", "x", ":1"),
]


@pytest.mark.parametrize(("name", "start", "more", "where"), ENDLESS)
def test_what_has_no_end_is_refused_before_it_is_in_memory(
    tmp_path, monkeypatch, name, start, more, where
):
    """A small archive may unpack to a line of many GiB; here the bound is 64 KiB."""
    monkeypatch.setattr("jaxssl.data.tables.lines.MAX_LINE_BYTES", 1 << 16)
    path = tmp_path / f"t.{name}.gz"
    path.write_bytes(gzip.compress((start + more * 4_000_000).encode(), 1, mtime=0))
    config = TableFile(path=str(path), format=name)

    def read():
        with pytest.raises(UserError, match="too large to be read") as error:
            list(read_chunks(config, 1))
        assert error.value.where == f"{path}{where}"
        return ()

    assert peak(read)[1] < 3_000_000


def test_lines_up_to_the_bound_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxssl.data.tables.lines.MAX_LINE_BYTES", 100)
    content = "x" * 99 + "\n" + "y" * 99
    assert read_table(write(tmp_path / "t.lines", content)).columns["text"] == content.split("\n")
    for content in ("x" * 100 + "\n", "x" * 100):
        with pytest.raises(UserError, match="too large"):
            read_table(write(tmp_path / "t.lines", content))


def test_tables_and_corpora_have_one_bound():
    from jaxssl.data.corpus import lines as corpus
    from jaxssl.data.tables import lines as tables

    assert tables.MAX_LINE_BYTES is corpus.MAX_LINE_BYTES == 16 << 20


def test_a_document_that_is_read_whole_may_be_one_long_line(tmp_path, monkeypatch):
    """SQuAD 2.0's training file is one line of 42 MB."""
    monkeypatch.setattr("jaxssl.data.tables.lines.MAX_LINE_BYTES", 100)
    content = as_squad([("q" * 200, "b")])
    table = read_table(write(tmp_path / "t.squad", content))
    assert table.columns["question"] == ["q" * 200]
    for spread in (content, content.replace(" ", "\n")):
        monkeypatch.setattr("jaxssl.data.tables.lines.MAX_DOCUMENT_BYTES", len(content) - 1)
        with pytest.raises(UserError, match="too large to be read"):
            read_table(write(tmp_path / "t.squad", spread))

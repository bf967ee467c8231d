"""Sources: every document once, whoever reads it, and every bad one written down."""

import gzip
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_texts import documents

from jaxssl.core.errors import UserError
from jaxssl.data.corpus import readers
from jaxssl.data.corpus.files import SourceFile
from jaxssl.data.corpus.lines import share
from jaxssl.data.corpus.sources import Docstrings, Hub, Jsonl, TextFiles


def read(source, world_size=1, set_aside=None):
    """All documents, task by task, and all that was set aside as (path, line, reason)."""
    found, aside = [], []
    for rank in range(world_size):
        found += list(source.reader(set_aside).run(None, rank, world_size))
        if set_aside is not None:
            file = readers.skipped_file(set_aside, rank)
            lines = file.read_text().splitlines() if file.is_file() else []
            aside += [tuple(json.loads(line).values()) for line in lines]
    return found, aside


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=9), tasks=st.integers(1, 12))
def test_the_tasks_share_every_byte_once(sizes, tasks):
    files = [SourceFile(f"{i}", f"{i}", size) for i, size in enumerate(sizes)]
    cut = [part for rank in range(tasks) for part in share(files, rank, tasks)]
    taken = [(file.path, byte) for file, start, stop in cut for byte in range(start, stop)]
    assert taken == [(file.path, byte) for file in files for byte in range(file.size)]
    whole = [part for rank in range(tasks) for part in share(files, rank, tasks, can_cut=False)]
    assert [file for file, _, _ in whole] == files or sum(sizes) == 0


@pytest.mark.parametrize("name", ["b.jsonl.gz", "b.txt.gz"])
def test_a_file_of_documents_that_ends_too_early_is_an_error_whatever_its_share(name, tmp_path):
    """How many are lost of it nobody knows. A file that is one document is one that is lost."""
    lines = b"".join(json.dumps({"text": f"text {i}"}).encode() + b"\n" for i in range(3000))
    whole = gzip.compress(lines)
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    if ".txt" in name:
        assert len(read(TextFiles(paths=(str(tmp_path),)), 1, f"{tmp_path}-aside")[1]) == 1
        return
    with pytest.raises(UserError, match="cannot be read to its end") as raised:
        read(Jsonl(paths=(str(tmp_path),)), 1, f"{tmp_path}-aside")
    assert name in str(raised.value)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 40])
def test_jsonl_documents_are_read_once_and_bad_lines_set_aside(tmp_path, world_size):
    texts = documents(20)
    good = [json.dumps({"text": text, "n": i}).encode() for i, text in enumerate(texts)]
    bad = {
        3: b'{"text": "cut off',
        7: b'{"text": "\xff\xfe"}',
        8: b'{"body": "no text here"}',
        11: b'{"text": 5}',
        15: b"[1, 2]",
        16: b'{"text": "\\ud800"}',
        17: b'{"text": " \\n"}',
    }
    lines = list(good)
    for position in sorted(bad):
        lines.insert(position, bad[position])
    lines.insert(5, b"")  # an empty line is not a document
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines[:12]) + b"\n")
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines[12:]))
    found, aside = read(Jsonl(paths=(str(tmp_path),)), world_size, f"{tmp_path}-aside")
    assert [document.text for document in found] == texts
    expected = [(i, line) for i, line in enumerate(lines) if line in bad.values()]
    names = [(i + 1, "a.jsonl") if i < 12 else (i - 11, "b.jsonl") for i, _ in expected]
    assert [(line, path.rpartition("/")[2]) for path, line, _ in aside] == names
    assert all(reason for _, _, reason in aside)


def test_a_documents_id_does_not_depend_on_the_tasks_or_the_place(tmp_path):
    ids = []
    for folder, tasks in (("x", 1), ("y/z", 5)):
        (tmp_path / folder).mkdir(parents=True)
        write_jsonl(tmp_path / folder / "a.jsonl", [{"text": t} for t in documents(30)])
        found, _ = read(Jsonl(paths=(str(tmp_path / folder / "*.jsonl"),)), tasks)
        ids.append([document.id for document in found])
    assert ids[0] == ids[1] and len(set(ids[0])) == 30


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.sampled_from(["", " ", "one", "two words", "três", "\t"]), max_size=25),
    tasks=st.integers(1, 9),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_paragraphs_are_those_between_blank_lines(tmp_path_factory, lines, tasks, newline):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    text = newline.join(lines)
    path.write_bytes(text.encode())
    found, _ = read(TextFiles(paths=(str(path),), documents="blank_lines"), tasks)
    plain = re.split(r"\n(?:[^\S\n]*\n)+", "\n" + "\n".join(lines) + "\n")
    expected = [p.strip("\n") for p in plain if p.strip()]
    assert [d.text.replace("\r\n", "\n") for d in found] == expected


def test_a_file_is_a_document_and_bad_files_are_set_aside(tmp_path):
    (tmp_path / "good.txt").write_text("\ufeffGood text.\nTwo lines.\n")
    (tmp_path / "latin.txt").write_bytes("fine\nbad caf\xe9\n".encode("latin-1"))
    (tmp_path / "cut.txt").write_bytes("good é".encode()[:-1])
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.txt").write_text(" \n")
    for tasks in (1, 3, 8):
        found, aside = read(TextFiles(paths=(str(tmp_path),)), tasks, f"{tmp_path}-aside")
        assert [(d.id, d.text) for d in found] == [("good.txt", "Good text.\nTwo lines.\n")]
        names = {path.rpartition("/")[2]: reason for path, _, reason in aside}
        assert set(names) == {"latin.txt", "cut.txt", "empty.txt", "blank.txt"}
        assert "line 2" in names["latin.txt"]


def test_a_large_file_comes_in_parts_that_join_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "PART_BYTES", 1000)
    text = " ".join(documents(40)) + "é" * 3000 + "\n\nThe end"
    (tmp_path / "a.txt").write_text(text)
    found, _ = read(TextFiles(paths=(str(tmp_path / "a.txt"),)))
    assert "".join(d.text for d in found) == text
    assert [d.metadata.get("more", False) for d in found] == [True] * (len(found) - 1) + [False]
    assert len({d.id for d in found}) == 1
    starts = [d.text[0].isspace() for d in found[1:] if "é" not in d.text]
    assert all(starts) and len(starts) > 5


def test_compressed_files_and_urls_are_read(tmp_path):
    import fsspec

    rows = [{"text": text} for text in documents(5)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    with fsspec.open("memory://corpus/c.jsonl", "wb") as file:
        file.write(content)  # type: ignore[union-attr]
    source = Jsonl(paths=(str(tmp_path), "memory://corpus/*.jsonl"))
    source.check()
    found, aside = read(source, 2, f"{tmp_path}-aside")
    texts = [row["text"] for row in rows]
    by_file = {name: [d.text for d in found if d.id.startswith(name)] for name in "ac"}
    assert by_file["a"] == by_file["c"] == texts and not aside


def test_a_hub_data_set_in_a_local_folder_is_streamed(tmp_path):
    texts = documents(30)
    rows = [{"body": text} for text in texts] + [{"body": None}]
    for i in range(2):
        (tmp_path / "data").mkdir(exist_ok=True)
        write_jsonl(tmp_path / f"data/train-{i}.jsonl", rows[i::2])
    source = Hub(dataset=str(tmp_path / "data"), text_key="body")
    source.check()
    for tasks in (1, 2, 5):
        found, aside = read(source, tasks, f"{tmp_path}-aside")
        assert sorted(d.text for d in found) == sorted(texts)
        assert len(aside) == 1
    with pytest.raises(UserError, match="no such column"):
        Hub(dataset=str(tmp_path / "data"), text_key="bod").check()
    with pytest.raises(UserError, match="source.group_key"):
        Hub(dataset=str(tmp_path / "data"), text_key="body", group_key="site").check()
    with pytest.raises(UserError, match="cannot be read"):
        Hub(dataset="nobody/nothing-of-this-name").check()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "names nothing"),
        ("empty.txt", b"", "empty"),
        ("image.txt", b"\x89PNG\r\n\x1a\n\x00\x00", "binary"),
        ("utf16.txt", "text".encode("utf-16"), "binary"),
    ],
)
def test_an_unusable_corpus_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for source in (TextFiles(paths=(str(path),)), Jsonl(paths=(str(path),))):
        with pytest.raises(UserError, match=message) as error:
            source.check()
        assert name in str(error.value)


def test_a_folder_without_jsonl_and_no_paths_are_refused(tmp_path):
    (tmp_path / "readme.md").write_text("text")
    with pytest.raises(UserError, match="empty"):
        Jsonl(paths=(str(tmp_path),)).check()
    with pytest.raises(UserError, match="no paths"):
        TextFiles(paths=()).check()
    with pytest.raises(UserError, match="max_bytes"):
        Docstrings(max_bytes=0)


def test_a_file_too_large_for_one_document_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxssl.data.corpus.sources.MAX_DOCUMENT_BYTES", 10)
    (tmp_path / "a.txt").write_text("twenty characters...")
    with pytest.raises(UserError, match="blank_lines"):
        TextFiles(paths=(str(tmp_path / "a.txt"),)).check()
    TextFiles(paths=(str(tmp_path / "a.txt"),), documents="blank_lines").check()


def test_lines_over_the_limit_are_set_aside(tmp_path, monkeypatch):
    for module in ("lines", "readers"):
        monkeypatch.setattr(f"jaxssl.data.corpus.{module}.MAX_LINE_BYTES", 100)
    write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b" * 500}, {"text": "c"}])
    found, aside = read(Jsonl(paths=(str(tmp_path / "a.jsonl"),)), 3, f"{tmp_path}-aside")
    assert [d.text for d in found] == ["a", "c"] and [line for _, line, _ in aside] == [2]
    (tmp_path / "a.txt").write_text(
        "one\n\n" + "two words\n" * 30 + "\n\n" + "x" * 300 + "\n\nend\n"
    )
    source = TextFiles(paths=(str(tmp_path / "a.txt"),), documents="blank_lines")
    found, aside = read(source, 2, f"{tmp_path}-aside")
    assert [d.text for d in found] == ["one", "end"] and [line for _, line, _ in aside] == [3, 35]

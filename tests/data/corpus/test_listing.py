"""Which files a corpus's paths name: links, loops, patterns, names that look like patterns."""

import os
import socket

import pytest

from jaxssl.core.errors import UserError
from jaxssl.data.corpus.listing import list_files


def every(name):
    return True


def ids(*paths):
    return [file.id for file in list_files(map(str, paths), every).files]


def notes(*paths):
    return list_files(map(str, paths), every).notes


@pytest.fixture
def corpus(tmp_path):
    """Nine texts in the folder, eight more in a folder beside it that a link inside leads to."""
    for i in range(9):
        (tmp_path / "corpus/own" / f"{i}.txt").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus/own" / f"{i}.txt").write_text(str(i))
    for i in range(8):
        (tmp_path / "beside").mkdir(exist_ok=True)
        (tmp_path / f"beside/{i}.txt").write_text(str(i))
    (tmp_path / "corpus/linked").symlink_to(tmp_path / "beside")
    return tmp_path / "corpus"


@pytest.mark.parametrize("path", ["", "**", "**/*.txt", "*/*.txt", "*/**"])
def test_a_linked_folder_is_read_by_a_folder_and_by_every_pattern(corpus, path):
    names = [f"linked/{i}.txt" for i in range(8)] + [f"own/{i}.txt" for i in range(9)]
    assert ids(corpus / path) == names


@pytest.mark.parametrize("path", ["", "**", "**/*.txt"])
def test_links_that_lead_in_circles_give_each_file_once_under_its_own_name(corpus, path):
    (corpus / "own/up").symlink_to(corpus)
    (corpus / "a").symlink_to(corpus / "own")
    (corpus / "a.txt").symlink_to(corpus / "own/3.txt")
    (corpus.parent / "beside/back").symlink_to(corpus)
    names = [f"linked/{i}.txt" for i in range(8)] + [f"own/{i}.txt" for i in range(9)]
    assert ids(corpus / path) == names
    told = [note for note in notes(corpus / path) if "read under another name" in note]
    assert len(told) == 1 and "not read: 4 links" in told[0] and "a.txt" in told[0]


def test_a_link_is_taken_where_the_file_itself_does_not_fit(corpus):
    (corpus / "first.txt").symlink_to(corpus / "own/3.txt")
    assert ids(corpus / "f*.txt") == ["first.txt"]


def test_the_same_file_by_two_paths_is_read_once(corpus):
    (corpus / "a.txt").symlink_to(corpus / "own/3.txt")
    assert ids(corpus / "a.txt", corpus / "own") == [
        "a.txt",
        *(f"{i}.txt" for i in (0, 1, 2)),
        *(f"{i}.txt" for i in range(4, 9)),
    ]


@pytest.mark.parametrize("name", ["news [v2]", "a*b", "what?", "[ab]", "100% #1 'x'", "ümläut"])
def test_a_name_that_exists_is_that_name_whatever_it_looks_like(tmp_path, name):
    for folder in (name, "news v", "axb", "whatx", "a"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(folder)
    for path in (tmp_path / name, tmp_path / name / "x.txt", tmp_path / name / "*.txt"):
        found = list_files([str(path)], every)
        assert [file.path for file in found.files] == [str(tmp_path / name / "x.txt")]
        assert bool(found.notes) == (path.name == "*.txt")
    with pytest.raises(UserError, match="names nothing(?s:.)*a pattern that no file fits"):
        list_files([str(tmp_path / "nothing" / "*.txt")], every)
    with pytest.raises(UserError, match="names nothing(?s:.)*no such file"):
        list_files([str(tmp_path / name / "missing.txt")], every)


def test_a_pattern_is_told_to_be_one(corpus):
    assert notes(corpus / "own/[0-3].txt") == [
        f"{corpus}/own/[0-3].txt is taken as a pattern: 4 files"
    ]
    with pytest.raises(UserError, match="names nothing") as error:
        ids(corpus / "own/[x].txt")
    assert "a pattern that no file fits" in str(error.value)


def test_folders_that_fit_a_pattern_are_told(corpus):
    (corpus / "x.txt").write_text("x")
    assert ids(corpus / "*") == ["x.txt"]
    assert "2 folders that fit the pattern" in notes(corpus / "*")[1]


def test_what_is_no_file_is_left_out_and_told(corpus, monkeypatch):
    os.mkfifo(corpus / "pipe")
    (corpus / "gone.txt").symlink_to(corpus / "nowhere.txt")
    monkeypatch.chdir(corpus)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        found = list_files([str(corpus)], every)
    assert len(found.files) == 17
    assert any("1 links to nothing: " in note and "gone.txt" in note for note in found.notes)
    assert any("2 devices, pipes or sockets" in note for note in found.notes)
    for name, got in (("pipe", "a device, a pipe"), ("gone.txt", "nowhere.txt, which is not")):
        with pytest.raises(UserError, match="corpus is empty") as error:
            ids(corpus / name)
        assert got in str(error.value)


def test_hidden_files_are_read_only_if_they_are_named(corpus):
    (corpus / ".git").mkdir()
    (corpus / ".git/x.txt").write_text("x")
    (corpus / ".y.txt").write_text("y")
    assert len(ids(corpus)) == len(ids(corpus / "**")) == 17
    assert ids(corpus / ".git") == ids(corpus / ".git/*.txt") == ["x.txt"]
    assert ids(corpus / ".*.txt") == [".y.txt"]


def test_a_folder_that_cannot_be_listed_is_refused(corpus, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="folder of the corpus cannot be read"):
        ids(corpus)


def test_urls_follow_the_same_rule():
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("a/x.txt", "a/.hidden", "b[1]/y.txt", "b1/z.txt"):
        memory.pipe(f"/listing/{name}", b"text")
    assert ids("memory://listing") == ["a/x.txt", "b1/z.txt", "b[1]/y.txt"]
    assert ids("memory://listing/b[1]") == ["y.txt"]
    assert ids("memory://listing/?/*.txt") == ["a/x.txt"]

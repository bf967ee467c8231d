"""CoNLL-U against a file written by hand, with all that the format's definition has."""

import gzip

import pytest

from jaxssl.core.errors import UserError
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.read import read_chunks, read_table
from jaxssl.tasks.tag.task import Tag

# "vámonos al mar" of the format's definition, a word with a space in it, and an empty node.
EXAMPLE = """\
# newdoc id = d1
# sent_id = s1
# text = vámonos al mar
1-2 vámonos _ _ _ _ _ _ _ SpaceAfter=Yes
1 vamos ir VERB VBP Mood=Imp|Number=Plur 0 root _ _
2 nos nosotros PRON _ Case=Acc 1 obj 1:obj|3:x _
3-4 al _ _ _ _ _ _ _ _
3 a a ADP IN _ 5 case _ _
4 el el DET DT Definite=Def 5 det _ _
5 mar mar NOUN NN Number=Sing 1 obl _ _

#a comment without a space

# sent_id = s2
0.1 _ _ _ _ _ _ _ _ _
1 10~000 10~000 NUM _ _ 0 root _ _
2 # # SYM _ _ 1 dep _ _
2.1 likes like VERB _ _ _ _ 1:conj _
3 _ _ PUNCT _ _ 1 punct _ _
"""
ROWS = {
    "words": [["vamos", "nos", "a", "el", "mar"], ["10 000", "#", "_"]],
    "lemma": [["ir", "nosotros", "a", "el", "mar"], ["10 000", "#", "_"]],
    "upos": [["VERB", "PRON", "ADP", "DET", "NOUN"], ["NUM", "SYM", "PUNCT"]],
    "xpos": [["VBP", None, "IN", "DT", "NN"], [None, None, None]],
    "feats": [
        ["Mood=Imp|Number=Plur", "Case=Acc", "_", "Definite=Def", "Number=Sing"],
        ["_", "_", "_"],
    ],
    "head": [["0", "1", "5", "5", "1"], ["0", "1", "1"]],
    "deprel": [["root", "obj", "case", "det", "obl"], ["root", "dep", "punct"]],
    "deps": [[None, "1:obj|3:x", None, None, None], [None, None, None]],
    "misc": [[None] * 5, [None] * 3],
}


def as_conllu(text):
    """A space stands for a tab where it is no comment, ~ for a space."""
    lines = [
        x if x.startswith("#") else x.replace(" ", "\t").replace("~", " ") for x in text.split("\n")
    ]
    return "\n".join(lines)


def write(path, text):
    path.write_text(as_conllu(text), encoding="utf-8")
    return str(path)


def test_words_have_the_columns_of_the_format_by_name(tmp_path):
    path = write(tmp_path / "t.conllu", EXAMPLE)
    table = read_table(TableFile(path=path))
    assert table.columns == ROWS and table.places == [f"{path}:5", f"{path}:16"]
    (tmp_path / "u.conllu.gz").write_bytes(gzip.compress(as_conllu(EXAMPLE).encode()))
    assert read_table(TableFile(path=str(tmp_path / "u.conllu.gz"))).columns == ROWS
    windows = tmp_path / "w.txt"
    windows.write_bytes(as_conllu(EXAMPLE).replace("\n", "\r\n").encode())
    assert read_table(TableFile(path=str(windows), format="conllu")).columns == ROWS
    assert [len(part) for part in read_chunks(TableFile(path=path), 1)] == [1, 1]


def test_a_treebank_is_learnt_by_the_name_of_its_column(tmp_path):
    table = read_table(TableFile(path=write(tmp_path / "t.conllu", EXAMPLE)))
    upos = Tag(scheme="none", label="upos").learn_labels(table)
    assert set(upos.labels) == {"VERB", "PRON", "ADP", "DET", "NOUN", "NUM", "SYM", "PUNCT"}
    assert "Case=Acc" in Tag(scheme="none", label="feats").learn_labels(table).labels
    with pytest.raises(UserError, match=r"(?s)word has no tag.*t.conllu:5, column xpos, tag 1"):
        Tag(scheme="none", label="xpos").learn_labels(table)
    with pytest.raises(UserError, match=r"(?s)no such column.*'upos', 'xpos'"):
        Tag(scheme="none").learn_labels(table)


WORD = "1 a a X _ _ 0 root _ _"
WRONG = [
    ("2 a a X _ _ 0 root _ _", "out of order", ":1"),
    (f"{WORD}\n{WORD}", "out of order", ":2"),
    (f"{WORD}\n3 a a X _ _ 0 root _ _", "out of order", ":2"),
    ("x a a X _ _ 0 root _ _", "out of order", ":1"),
    (f"{WORD}\n2 a a X _ _ 0 root _", "not CoNLL-U", ":2"),
    ("a O", "not CoNLL-U", ":1"),
    ("1  a X _ _ 0 root _ _", "not CoNLL-U", ":1"),
    ("# text = a\n", "without rows", ""),
]


@pytest.mark.parametrize(("text", "message", "where"), WRONG)
def test_what_is_not_conllu_is_refused_with_its_line(tmp_path, text, message, where):
    path = write(tmp_path / "t.conllu", text)
    with pytest.raises(UserError, match=message) as error:
        read_table(TableFile(path=path))
    assert error.value.where == path + where


@pytest.mark.parametrize("positions", [{"words": 0, "tags": -1}, {"words": 1, "tags": 3}])
def test_conllu_that_is_read_as_other_columns_is_told(tmp_path, positions):
    """Multiword tokens and empty nodes would be words, and _ a tag."""
    text = EXAMPLE.replace("#a comment without a space\n", "")
    path = write(tmp_path / "t.conll", text)
    config = TableFile(path=path, comment_prefix="# ", positions=positions)
    with pytest.raises(UserError, match="ids before the words") as error:
        read_table(config)
    assert error.value.where == f"{path}:4" and "format=conllu" in str(error.value.fix)
    assert read_table(TableFile(path=path, format="conllu")).columns == ROWS

"""Marked spans from characters to a store's rows."""

import json
import re

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.commands.inspect import inspect_path
from jaxssl.core.errors import UserError
from jaxssl.data.config import StoreConfig
from jaxssl.data.corpus.config import PrepareConfig
from jaxssl.data.corpus.gazetteer import GazetteerConfig
from jaxssl.data.corpus.marks import beside, checked_spans, token_marks
from jaxssl.data.corpus.prepare import prepare
from jaxssl.data.corpus.sources import Jsonl, TextFiles
from jaxssl.data.loader import open_rows
from jaxssl.data.store.documents import Documents
from jaxssl.data.store.packing import Packed
from jaxssl.data.store.pairs import Pairs
from jaxssl.data.store.rows import Windows
from jaxssl.data.store.store import TokenStore
from jaxssl.data.tokenizer.loading import load_tokenizer

PHRASES = ("old man", "the old man", "green fish", "river", "never finds")
TEXTS = [
    " ".join(sentence.strip().capitalize() for sentence in document)
    for document in toy.documents(60, seed=11)
]

OWN = "a dog|near a river"
"""What the records' own spans mark."""

# --- Characters to tokens -----------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_tokens_of_a_span_are_those_that_share_a_character_with_it(data):
    sizes = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=12))
    ends = np.cumsum(sizes)
    offsets = np.stack([ends - sizes, ends], axis=1)
    cuts = data.draw(st.lists(st.integers(0, int(ends[-1]) + 2), max_size=8, unique=True))
    cuts = sorted(cuts)
    spans = [(a, b) for a, b in zip(cuts[::2], cuts[1::2])]
    marks = token_marks(offsets, spans)
    holder = np.full(len(sizes), -1)
    for number, (start, end) in list(enumerate(spans))[::-1]:
        # One of whitespace alone spans nothing, and is inside where it lies inside.
        holder[[t for t, (a, b) in enumerate(offsets) if b > start and a < end]] = number
    expected = [
        0 if number < 0 else 1 if t == 0 or holder[t - 1] != number else 2
        for t, number in enumerate(holder)
    ]
    assert marks.tolist() == expected


def test_spans_of_the_records_own_come_before_phrases():
    assert beside([(3, 6), (10, 12)], [(0, 3), (5, 8), (6, 10), (11, 13), (12, 14)]) == [
        (0, 3),
        (6, 10),
        (12, 14),
    ]


@pytest.mark.parametrize(
    "value, message",
    [
        ([[0, 5], [4, 6]], "two spans overlap"),
        ([[5, 11]], "out of range: [5, 11) in a text of 10 characters"),
        ([[3, 3]], "out of range"),
        ([[-1, 3]], "out of range"),
        ([[1, 2, 3]], "not a list of [start, end]"),
        ([[True, 3]], "not a list of [start, end]"),
        ("0-5", "not a list of [start, end]"),
    ],
)
def test_offsets_that_cannot_be_are_said(value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        checked_spans(value, "0123456789")


def test_offsets_may_be_in_any_order_and_none():
    assert checked_spans([[5, 10], [0, 5]], "0123456789") == [(0, 5), (5, 10)]
    assert checked_spans(None, "0") == checked_spans([], "0") == []


# --- Stores -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A corpus with and without spans of its own, a gazetteer and two tokenizers."""
    folder = tmp_path_factory.mktemp("marks")
    (folder / "text.txt").write_text("\n\n".join(TEXTS))
    rows = [
        {"text": text, "spans": [list(m.span()) for m in re.finditer(OWN, text)]} for text in TEXTS
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "names.txt").write_text("\n".join(PHRASES))
    for kind in ("wordpiece", "byte_bpe"):
        toy.train_toy_tokenizer(kind).save(folder / kind)
    return folder


def asked(work, out, kind="wordpiece", **changes):
    text = TextFiles(paths=(str(work / "text.txt"),), documents="blank_lines")
    given = {"source": text, "gazetteer": GazetteerConfig(path=str(work / "names.txt"))}
    given |= {"validation_fraction": 0.2, "tasks": 3, "workers": 1, "max_unknown_rate": 0.5}
    return PrepareConfig(out=str(out), tokenizer=str(work / kind), **{**given, **changes})


def marked_texts(store):
    """Each document's marked spans as texts without spaces."""
    tokenizer, found = load_tokenizer(store.path / "tokenizer"), []
    for name in store.manifest.splits:
        split = store.split(name, marks=True)
        places = np.arange(split.num_tokens)
        tokens, marks = split.tokens(places), split.tokens(places, "marks")
        assert not marks[split.document_ends(np.arange(split.num_documents)) - 1].any()
        starts = np.flatnonzero(marks == 1)
        for start in starts:
            stop = start + 1
            while stop < len(marks) and marks[stop] == 2:
                stop += 1
            found.append(tokenizer.decode(tokens[start:stop]).replace(" ", "").replace("##", ""))
    return sorted(found)


def expected_texts(pattern):
    return sorted(m.group().replace(" ", "") for text in TEXTS for m in re.finditer(pattern, text))


@pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe"])
def test_a_store_has_the_phrases_marked_and_the_same_tokens(work, tmp_path, kind):
    store = prepare(asked(work, tmp_path / "marked", kind))
    phrases = "the old man|old man|green fish|river|never finds"
    assert marked_texts(store) == expected_texts(phrases)
    plain = prepare(asked(work, tmp_path / "plain", kind, gazetteer=None))
    for name, split in plain.manifest.splits.items():
        for shard, other in zip(split.shards, store.manifest.splits[name].shards):
            kinds = ("tokens", "documents", "sentences")
            assert all(shard.sha256[k] == other.sha256[k] for k in kinds)
    totals = store.manifest.splits.values()
    assert sum(split.spans for split in totals) == len(expected_texts(phrases))
    assert all(split.found == split.spans for split in totals)
    assert "found by the gazetteer" in "\n".join(inspect_path(store.path))
    assert "marked" not in "\n".join(inspect_path(plain.path))
    TokenStore.open(store.path, verify=True)


def test_the_records_own_spans_and_phrases_are_marked(work, tmp_path):
    rows = Jsonl(paths=(str(work / "rows.jsonl"),), spans_key="spans")
    own = prepare(asked(work, tmp_path / "own", source=rows, gazetteer=None))
    assert marked_texts(own) == expected_texts(OWN)
    both = prepare(asked(work, tmp_path / "both", source=rows))
    phrases = "the old man|old man|green fish|never finds"
    assert marked_texts(both) == expected_texts(f"{OWN}|{phrases}"), "no river, which overlaps"
    assert sum(s.found for s in both.manifest.splits.values()) == len(expected_texts(phrases))


def test_a_store_without_marks_is_of_the_old_format(work, tmp_path):
    plain = prepare(asked(work, tmp_path / "plain", gazetteer=None))
    content = json.loads((plain.path / "manifest.json").read_text())
    assert content["format"] == 1 and "marks" not in content
    assert not {"spans", "found", "marked"} & content["splits"]["train"].keys()
    assert not list(plain.path.rglob("*.marks"))
    with pytest.raises(UserError, match="no marked spans"):
        plain.split("train", marks=True)


def test_parts_of_a_document_are_marked_like_a_whole(work, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxssl.data.corpus.readers.PART_BYTES", 300)
    (tmp_path / "one.txt").write_text("\n\n".join(TEXTS))
    source = TextFiles(paths=(str(tmp_path / "one.txt"),))
    store = prepare(asked(work, tmp_path / "s", source=source, validation_fraction=0, tasks=1))
    assert store.split("train").num_documents == 1
    assert marked_texts(store) == expected_texts("the old man|old man|green fish|river|never finds")


@pytest.mark.parametrize(
    "rows", [Windows(), Packed(), Documents(), Documents(unit="sentence"), Pairs()], ids=str
)
def test_rows_hand_on_the_mark_of_each_token_only_where_that_is_asked_for(work, tmp_path, rows):
    """Marks are a function of the text's tokens here, so each row's can be told from its tokens."""
    store = prepare(asked(work, tmp_path / "s"))
    config = StoreConfig(store=str(store.path), rows=rows, sequence_length=24, batch_size=4)
    source, plain = open_rows(config, "train", store, marks=True), open_rows(config, "train", store)
    indices = np.arange(min(40, source.num_rows))
    batch, without = source.rows(indices, 0), plain.rows(indices, 0)
    marks = batch.pop("marks")
    assert batch.keys() == without.keys()
    assert all(np.array_equal(batch[name], without[name]) for name in batch)
    assert marks.dtype == np.uint8 and marks.shape == batch["tokens"].shape
    split = store.split("train", marks=True)
    places = np.arange(split.num_tokens)
    stream, stream_marks = split.tokens(places), split.tokens(places, "marks")
    windows = {}
    for i in range(1, len(stream) - 1):
        windows.setdefault(tuple(stream[i - 1 : i + 2]), set()).add(int(stream_marks[i]))
    checked = 0
    for tokens, segments, row in zip(batch["tokens"], batch["segment_ids"], marks):
        assert not row[segments == 0].any() and not row[np.isin(tokens, [2, 3])].any()
        for t in range(1, 23):
            known = windows.get(tuple(tokens[t - 1 : t + 2]))
            if known is not None and len(known) == 1:
                assert row[t] in known
                checked += row[t] > 0
    assert checked > 20


def test_a_killed_and_finished_store_keeps_the_gazetteer_it_was_begun_with(work, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("river\n")
    gazetteer = GazetteerConfig(path=str(names))
    prepare(asked(work, tmp_path / "s", gazetteer=gazetteer))
    names.write_text("river\n\nold man\n")
    with pytest.raises(UserError, match="another configuration") as error:
        prepare(asked(work, tmp_path / "s", gazetteer=gazetteer))
    assert "gazetteer" in str(error.value)


def test_a_store_that_was_made_before_there_were_marks_is_complete(work, tmp_path, capsys):
    rows = Jsonl(paths=(str(work / "rows.jsonl"),))
    config = asked(work, tmp_path / "s", source=rows, gazetteer=None)
    record = prepare(config).path / "prepare.json"
    content = json.loads(record.read_text())
    del content["gazetteer"]
    content["source"].pop("spans_key", None)
    record.write_text(json.dumps(content))
    prepare(config)
    assert "complete already" in capsys.readouterr().err


def test_an_altered_file_of_marks_is_found(work, tmp_path):
    store = prepare(asked(work, tmp_path / "s"))
    file = next(store.path.glob("train/*.marks"))
    content = bytearray(file.read_bytes())
    content[5] ^= 3
    file.write_bytes(content)
    with pytest.raises(UserError, match="altered") as error:
        TokenStore.open(store.path, verify=True)
    assert file.name in str(error.value)

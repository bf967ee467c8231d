"""Tokenizers: text is data, files are reproducible, and sentences encode as their document does."""

import dataclasses
import errno
import hashlib
import json
import shutil
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_texts import NASTY, documents

from jaxssl.core.errors import UserError
from jaxssl.data.corpus.sentences import split_sentences
from jaxssl.data.corpus.sources import Docstrings, Jsonl
from jaxssl.data.tokenizer.loading import JsonTokenizer, load_tokenizer
from jaxssl.data.tokenizer.tokenizer import check_roles
from jaxssl.data.tokenizer.training import TokenizerTrainConfig, train_on_texts, train_tokenizer

KINDS = ("wordpiece", "byte_bpe", "sentencepiece_bpe", "sentencepiece_unigram")
TEXTS = [*documents(200), *NASTY]
SIZES = {"wordpiece": 700, "byte_bpe": 600, "sentencepiece_bpe": 400, "sentencepiece_unigram": 180}
_trained = {}


def trained(kind):
    """A tokenizer of each kind, trained once."""
    if kind not in _trained:
        config = TokenizerTrainConfig(
            source=Docstrings(),
            kind=kind,
            out=kind,
            vocab_size=SIZES[kind],
            lowercase=kind == "wordpiece",
        )
        _trained[kind] = train_on_texts(config, lambda: TEXTS)
    return _trained[kind]


@pytest.fixture(params=KINDS)
def tokenizer(request):
    return trained(request.param)


def encode(tokenizer, text):
    return tokenizer.encode_batch([text])[0].tolist()


def test_text_never_becomes_a_special_token(tokenizer):
    special = {id_ for role, id_ in tokenizer.special_ids.items() if id_ is not None}
    special.discard(tokenizer.special_ids["unk"])
    literals = [tokenizer.token(id_) for id_ in special]
    for text in (*literals, *NASTY, *(f"a{x}b {x}{x}." for x in literals)):
        assert not special & set(encode(tokenizer, text)), text
        ids, _ = tokenizer.encode_documents([split_sentences(text)])[0]
        assert not special & set(ids.tolist())


def test_the_text_comes_back(tokenizer):
    text = "The model returns a value. Is it so?"
    decoded = tokenizer.decode(encode(tokenizer, text))
    if tokenizer is trained("wordpiece"):
        text, decoded = text.lower(), decoded.replace(" .", ".").replace(" ?", "?")
    assert decoded == text


def test_byte_level_bpe_returns_every_text_exactly():
    for text in NASTY:
        assert trained("byte_bpe").decode(encode(trained("byte_bpe"), text)) == text


@pytest.mark.parametrize("kind", KINDS[:3])  # Unigram breaks ties by floating point sums
@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([*NASTY, *TEXTS[:40], " ", "\n\n", "。", "A", "."]), max_size=5))
def test_sentence_by_sentence_equals_the_document(kind, parts):
    text = "".join(parts)
    sentences = split_sentences(text)
    ids, ends = trained(kind).encode_documents([sentences])[0]
    whole = trained(kind)._encode([text])[0]
    if not trained(kind)._forbidden[whole].any():
        assert ids.tolist() == whole.tolist()
    assert ids.tolist() == encode(trained(kind), text)
    assert (np.diff(ends, prepend=0) > 0).all() and (not len(ids) or ends[-1] == len(ids))


def test_sentence_ends_lie_between_the_sentences(tokenizer):
    sentences = split_sentences(TEXTS[3] + " 你好。再见。 Last one. One more.")
    ids, ends = tokenizer.encode_documents([sentences])[0]
    pieces = [tokenizer.decode(part).strip() for part in np.split(ids, ends[:-1])]
    alone = [tokenizer.decode(encode(tokenizer, sentence)).strip() for sentence in sentences]
    assert pieces == alone


ODD = (
    "The \ufb01ne  caf\u00e9 (\u00bd \u2460) in Z\u00dcRICH\u2026\n\n\u201cNa\u00efve\u201d x ",
    "  two\u00a0spaces,\te\u0301 and \u0130 of \u0416\u0443\u043a \U0001f600\u2764\ufe0f \u4f60",
    "\u0301 a model\u200bof [SEP] <s>tokens</s>. ",
    "",
    " \n",
)


def stripped(text, start, end):
    """The span without whitespace, by Python's own strip."""
    inside = text[start:end]
    start = min(start + len(inside) - len(inside.lstrip()), end)
    return [start, start + len(inside.strip())] if inside.strip() else [end, end]


def with_marks(text, start, end):
    """The span with the accents that follow it; nothing if there is nothing to accent."""
    while start < end < len(text) and unicodedata.category(text[end]) == "Mn":
        end += 1
    return [start, end]


def test_offsets_are_those_of_transformers(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    theirs, same = AutoTokenizer.from_pretrained(tmp_path), 0
    for text, (ids, spans) in zip(TEXTS, tokenizer.encode_with_offsets(TEXTS)):
        out = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
        if out["input_ids"] == ids.tolist():
            same += 1
            want = [stripped(text, *x) for x in out["offset_mapping"]]
            if len(ids) and tokenizer.token(int(ids[0])) == "\u2581":
                assert spans[0].tolist() == [want[0][0]] * 2  # it stands for no character
                want[0] = spans[0].tolist()
            if tokenizer not in (trained("wordpiece"), trained("byte_bpe")):
                want = [with_marks(text, *x) for x in want]  # which theirs loses in composing
            assert spans.tolist() == want, text
    assert same > 0.95 * len(TEXTS)


def test_offsets_go_with_the_ids_of_plain_encoding(tokenizer):
    texts = [*TEXTS, *ODD]
    for text, row, (ids, spans) in zip(
        texts, tokenizer.encode_batch(texts), tokenizer.encode_with_offsets(texts)
    ):
        assert ids.tolist() == row.tolist() and spans.shape == (len(ids), 2), text
        assert (spans.dtype, ids.dtype) == (np.int32, np.int32)
        assert (np.diff(spans, axis=0) >= 0).all() and (spans[:, 0] <= spans[:, 1]).all(), text


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*ODD, *NASTY, *TEXTS[:9], " ", "\n\n", "\u3002"]), max_size=4))
def test_offsets_cover_every_character_that_is_read(kind, parts):
    """Whitespace is in no token; lower-casing WordPiece drops marks and invisible characters."""
    text = "".join(parts)
    ids, spans = trained(kind).encode_with_offsets([text])[0]
    covered = np.zeros(len(text), bool)
    for id_, (start, end) in zip(ids, spans):
        covered[start:end] = True
        assert text[start:end].strip() == text[start:end]
        assert spells(kind, trained(kind).token(int(id_)), text[start:end]), (text, start, end)
    dropped = ("Mn", "Cc", "Cf") if kind == "wordpiece" else ("Cc", "Cf")
    left_out = {c for c, is_in in zip(text, covered) if not is_in and not c.isspace()}
    assert all(unicodedata.category(c) in dropped for c in left_out), left_out
    if kind == "byte_bpe":
        assert not left_out


def spells(kind, piece, written):
    """Whether a vocabulary's piece can stand for the characters as they are written."""
    if piece in ("[UNK]", "<unk>"):
        return bool(written)
    if kind == "wordpiece":
        plain = unicodedata.normalize("NFD", written).lower()
        plain = unicodedata.normalize("NFD", plain)
        return piece.removeprefix("##") == "".join(
            c for c in plain if unicodedata.category(c) not in ("Mn", "Cf", "Cc")
        )
    if kind == "byte_bpe":
        return not written or bytes(BYTES[c] for c in piece).strip() in written.encode()
    plain = "".join(unicodedata.normalize("NFKC", written).split("\u200b"))
    return piece.strip("\u2581") in plain and (plain.strip() == "") == (piece == "\u2581")


def test_offsets_are_right_past_a_special_tokens_string_in_the_text():
    """Of words, of which one is special without the library's knowing."""
    words = {"[UNK]": 0, "[SEP]": 1, "cat": 2, "dog": 3}
    content = {
        "version": "1.0",
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
    }
    roles = {"unk_token": "[UNK]", "sep_token": "[SEP]"}
    tokenizer = JsonTokenizer("words", content, roles)
    ids, spans = tokenizer.encode_with_offsets(["dog", "cat [SEP] dog"])[1]
    assert ids.tolist() == encode(tokenizer, "cat [SEP] dog") == [2, 0, 0, 3]
    assert spans.tolist() == [[0, 3], [4, 5], [5, 9], [10, 13]]


PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
BYTES = {chr(b): b for b in PRINTABLE} | {chr(256 + i): b for i, b in enumerate(OTHERS)}
"""How byte-level BPE writes bytes: printable Latin-1 as it is, the others from U+0100 up."""


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "copy")
    loaded = load_tokenizer(tmp_path / "copy")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.special_ids == tokenizer.special_ids
    assert loaded.vocab_size == tokenizer.vocab_size
    assert [r.tolist() for r in loaded.encode_batch(TEXTS)] == [
        r.tolist() for r in tokenizer.encode_batch(TEXTS)
    ]
    loaded.save(tmp_path / "again")
    assert _digest(tmp_path / "copy") == _digest(tmp_path / "again")
    prints = {trained(kind).fingerprint for kind in KINDS}
    assert len(prints) == 4


def test_transformers_reads_the_directory_and_agrees(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for role, id_ in tokenizer.special_ids.items():
        assert getattr(theirs, f"{role}_token_id") == id_, role
    clean = [t for t in TEXTS if "[" not in t and "<" not in t]
    same = [
        theirs(text, add_special_tokens=False)["input_ids"] == encode(tokenizer, text)
        for text in clean
    ]
    assert np.mean(same) > (0.98 if tokenizer is trained("sentencepiece_unigram") else 0.9999)


@pytest.mark.parametrize("kind", KINDS)
def test_training_again_in_another_process_gives_the_same_files(kind, tmp_path):
    script = (
        "import sys; sys.path.insert(0, 'tests/data')\n"
        "from jaxssl.data.corpus.sources import Docstrings\n"
        "from jaxssl.data.tokenizer.training import *\n"
        "from sample_texts import documents, NASTY\n"
        "t = [*documents(200), *NASTY]\n"
        f"c = TokenizerTrainConfig(source=Docstrings(), kind={kind!r}, out={kind!r},"
        f" vocab_size={SIZES[kind]}, lowercase={kind == 'wordpiece'})\n"
        f"train_on_texts(c, lambda: t).save({str(tmp_path / 'other')!r})\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    trained(kind).save(tmp_path / "here")
    assert _digest(tmp_path / "here") == _digest(tmp_path / "other")


def test_wordpiece_has_berts_special_tokens_and_knows_its_characters():
    tokenizer = trained("wordpiece")
    assert [tokenizer.token(i) for i in range(5)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = {w.strip(".?!").lower() for t in TEXTS[:200] for w in t.split()}
    unknown = [w for w in words if tokenizer.special_ids["unk"] in encode(tokenizer, w)]
    assert not unknown
    assert (
        encode(tokenizer, "Model")
        == encode(tokenizer, "model")
        == [i for i in range(tokenizer.vocab_size) if tokenizer.token(i) == "model"]
    )


def test_wordpiece_of_a_short_text_knows_all_of_it():
    text = "The quick brown fox jumps over the lazy dog. Sphinx of black quartz, judge my vow!"
    config = TokenizerTrainConfig(
        source=Docstrings(), kind="wordpiece", out="short", vocab_size=300
    )
    tokenizer = train_on_texts(config, lambda: [text])
    assert tokenizer.special_ids["unk"] not in encode(tokenizer, text)


def test_words_start_where_whitespace_or_punctuation_does(tokenizer):
    starts = tokenizer.word_starts()
    text = "The parameter returns unseenwordhere. Default, optional"
    ids = encode(tokenizer, text)
    words, current = [], []
    for id_ in ids:
        if starts[id_] and current:
            words.append(tokenizer.decode(current).strip())
            current = []
        current.append(id_)
    words.append(tokenizer.decode(current).strip())
    expected = ["The", "parameter", "returns", "unseenwordhere", ".", "Default", ",", "optional"]
    if tokenizer is trained("wordpiece"):
        expected = [word.lower() for word in expected]
        words = [word.replace("##", "").replace(" ", "") for word in words]
    assert words == expected


def test_full_stops_end_sentences_and_nothing_else_does(tokenizer):
    ends = tokenizer.sentence_ends()
    found = encode(tokenizer, "It works. Does it? Yes, it does! (so)")
    stops = [tokenizer.decode([id_]).strip() for id_ in found if ends[id_]]
    assert stops == [".", "?", "!"]
    pieces = [tokenizer.decode([id_]).replace("##", "").strip() for id_ in np.flatnonzero(ends)]
    assert "\u3002" in pieces  # of a script that writes no spaces
    assert not any(c.isalnum() or c.isspace() or c == "(" for piece in pieces for c in piece)
    assert not ends[[id_ for id_ in tokenizer.special_tokens.values()]].any()


def test_stored_padding_and_truncation_are_dropped(tmp_path):
    trained("wordpiece").save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    content["padding"] = {
        "strategy": {"Fixed": 16},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    loaded = load_tokenizer(tmp_path)
    assert encode(loaded, TEXTS[0]) == encode(trained("wordpiece"), TEXTS[0])
    assert loaded.fingerprint == trained("wordpiece").fingerprint


def test_a_directory_that_states_no_roles_is_read_as_transformers_reads_it(tmp_path):
    from transformers import AutoTokenizer

    trained("byte_bpe").save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    assert ours.special_ids["eos"] == theirs.eos_token_id is not None
    assert ours.document_end == theirs.eos_token_id
    for text in TEXTS[:20]:
        assert encode(ours, text) == theirs(text)["input_ids"]
    assert theirs.eos_token_id not in encode(ours, "a <|endoftext|> b")
    ours.save(tmp_path / "copy")
    assert load_tokenizer(tmp_path / "copy").fingerprint == ours.fingerprint


def test_a_raw_model_file_is_loaded(tmp_path):
    import sentencepiece

    tokenizer = trained("sentencepiece_unigram")
    path = tmp_path / "spiece.model"
    path.write_bytes(tokenizer.files["tokenizer.model"])
    loaded = load_tokenizer(path)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    for text in documents(20):
        assert encode(loaded, text) == processor.encode(text)
    assert loaded.special_ids == tokenizer.special_ids
    assert loaded.special_ids["cls"] == processor.bos_id()


def test_tokenizers_that_cannot_be_cut_at_spaces_are_encoded_whole():
    """A Llama-like one puts a mark before each text it is given, spaces or not."""
    from tokenizers import Tokenizer, models, normalizers, trainers

    library = Tokenizer(models.BPE(unk_token="<unk>"))
    library.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "</s>"], show_progress=False, max_token_length=6
    )
    library.train_from_iterator(TEXTS, trainer)
    content = json.loads(library.to_str())
    tokenizer = JsonTokenizer("odd", content, {"unk_token": "<unk>", "eos_token": "</s>"})
    assert not tokenizer._cuts[0]
    for text in TEXTS[:50]:
        ids, ends = tokenizer.encode_documents([split_sentences(text)])[0]
        assert ids.tolist() == library.encode(text).ids
        assert len(ends) == len(split_sentences(text)) and ends[-1] == len(ids)


def test_pieces_that_look_like_special_tokens_are_taken_apart():
    """Unigram models list "</s>" among their pieces and would find it in text."""
    from tokenizers import Tokenizer, models

    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((c, -2.0) for c in "abc</s> ")]
    library = Tokenizer(models.Unigram(pieces, 0, False))
    config = {"unk_token": "<unk>", "eos_token": "</s>"}
    tokenizer = JsonTokenizer("odd", json.loads(library.to_str()), config)
    assert 1 in library.encode("a</s>b").ids
    assert [tokenizer.token(i) for i in encode(tokenizer, "a</s>b")] == list("a</s>b")


def test_missing_roles_are_told(tokenizer):
    check_roles(trained("wordpiece"), ("mask", "cls", "sep"), "for sentence pairs")
    with pytest.raises(UserError, match="no mask token, needed for masked"):
        check_roles(trained("byte_bpe"), ("mask",), "for masked language modelling")
    assert trained("wordpiece").document_end == trained("wordpiece").special_ids["sep"]
    assert trained("byte_bpe").document_end == 0


def test_extra_roles_of_byte_level_bpe(tmp_path):
    config = TokenizerTrainConfig(
        source=Docstrings(),
        kind="byte_bpe",
        out="x",
        vocab_size=300,
        extra_roles=("pad", "mask"),
    )
    tokenizer = train_on_texts(config, lambda: TEXTS)
    assert tokenizer.special_ids["pad"] == 1 and tokenizer.special_ids["mask"] == 2
    assert not {1, 2} & set(encode(tokenizer, "<|pad|> <|mask|>"))


@pytest.mark.parametrize("name", ["/nowhere/at/all", "nobody/no-such-tokenizer", "gone.model"])
def test_a_tokenizer_that_is_not_there_is_told(name):
    with pytest.raises(UserError, match="cannot be loaded"):
        load_tokenizer(name)


def test_a_mistyped_directory_is_answered_with_the_near_one(tmp_path, monkeypatch):
    """And not looked for on the hub, as `owner/name`."""
    monkeypatch.chdir(tmp_path)
    trained("wordpiece").save(tmp_path / "stores/pieces")
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", None)
    with pytest.raises(UserError, match="did you mean 'stores/pieces'") as error:
        load_tokenizer("stores/peices")
    assert "no such directory" in error.value.got


def test_damaged_files_are_told(tmp_path):
    (tmp_path / "bad.model").write_bytes(b"not a model")
    (tmp_path / "bad.json").write_text('{"model": 3}')
    trained("wordpiece").save(tmp_path / "roles")
    config = tmp_path / "roles/tokenizer_config.json"
    config.write_text(config.read_text().replace("[MASK]", "[MSK]"))
    for path, message in (("bad.model", "loaded"), ("bad.json", "loaded"), ("roles", "mask token")):
        with pytest.raises(UserError, match=message):
            load_tokenizer(tmp_path / path)


def test_training_from_a_source_is_done_once(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": t}) + "\n" for t in TEXTS) + "{\n"
    )
    source = Jsonl(paths=(str(tmp_path / "a.jsonl"),))
    config = TokenizerTrainConfig(source=source, out=str(tmp_path / "t"), vocab_size=5000)
    first = train_tokenizer(config)
    said = capsys.readouterr().err
    assert "1 documents could not be read" in said and "supports a vocabulary of" in said
    assert load_tokenizer(tmp_path / "t").fingerprint == first.fingerprint
    before = _digest(tmp_path / "t")
    train_tokenizer(config)
    assert "already trained" in capsys.readouterr().err and _digest(tmp_path / "t") == before
    with pytest.raises(UserError, match="no tokenizer of this configuration"):
        train_tokenizer(TokenizerTrainConfig(source=source, out=config.out, vocab_size=400))
    (tmp_path / "b").mkdir()
    shutil.copyfile(tmp_path / "a.jsonl", tmp_path / "b/a.jsonl")
    moved = Jsonl(paths=(str(tmp_path / "b"),))
    train_tokenizer(dataclasses.replace(config, source=moved))
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write('{"text": "more"}\n')
    with pytest.raises(UserError, match="corpus has changed since this tokenizer") as error:
        train_tokenizer(config)
    assert "1 edited (a.jsonl)" in str(error.value) and _digest(tmp_path / "t") == before


def test_a_tokenizer_that_meets_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    source = Jsonl(paths=(str(tmp_path / "a.jsonl"),))
    config = TokenizerTrainConfig(source=source, out=str(tmp_path / "t"), vocab_size=400)

    def refuse(*given, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(json, "dump", refuse)
        train_tokenizer(config)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    assert train_tokenizer(config).vocab_size == 291


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "byte_bpe", "vocab_size": 200}, "too small"),
        ({"character_coverage": 1.5}, "not a share"),
        ({"extra_roles": ("pad",)}, "only byte-level"),
    ],
)
def test_bad_options_are_told(options, message):
    with pytest.raises(UserError, match=message):
        TokenizerTrainConfig(source=Docstrings(), out="x", **options)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_pieces_than_were_asked_for_are_told_with_both_numbers(kind, capsys):
    config = TokenizerTrainConfig(source=Docstrings(), kind=kind, out="x", vocab_size=50_000)
    tokenizer = train_on_texts(config, lambda: TEXTS[:20])
    said = capsys.readouterr().err
    pieces = tokenizer.vocab_size
    assert 100 < pieces < 50_000
    assert f"note: the text supports a vocabulary of {pieces:,} pieces, not 50,000 (" in said
    assert f"model.vocab_size={pieces}\n" in said
    assert ("min_frequency" in said) == (not kind.startswith("sentencepiece"))


def test_a_text_that_sentencepiece_cannot_learn_from_is_told():
    config = TokenizerTrainConfig(source=Docstrings(), kind="sentencepiece_bpe", out="x")
    with pytest.raises(UserError, match="cannot learn"):
        train_on_texts(config, lambda: [" "])


def _digest(directory):
    return {
        f.name: hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(directory.iterdir())
        if f.is_file()
    }


def test_copies_of_a_directory_have_the_same_fingerprint(tmp_path):
    trained("wordpiece").save(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    content = json.loads((tmp_path / "b/tokenizer.json").read_text())
    content["model"]["vocab"]["model"], content["model"]["vocab"]["value"] = (
        content["model"]["vocab"]["value"],
        content["model"]["vocab"]["model"],
    )
    assert load_tokenizer(tmp_path / "b").fingerprint == load_tokenizer(tmp_path / "a").fingerprint
    (tmp_path / "b/tokenizer.json").write_text(json.dumps(content))
    assert load_tokenizer(tmp_path / "b").fingerprint != load_tokenizer(tmp_path / "a").fingerprint

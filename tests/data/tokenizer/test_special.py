"""Further special tokens: the ids that T5 gives them, behind all others, and text as it was."""

import dataclasses
import hashlib
import io
import json
import shutil

import pytest
import toy
from sample_texts import NASTY, documents

from jaxssl.core.errors import UserError
from jaxssl.data.corpus.sources import Docstrings, TextFiles
from jaxssl.data.tokenizer.export import write_tokenizer
from jaxssl.data.tokenizer.extension import pieces_before
from jaxssl.data.tokenizer.loading import (
    JsonTokenizer,
    SentencePieceTokenizer,
    load_tokenizer,
    with_tokens,
)
from jaxssl.data.tokenizer.sentencepiece_model import with_control_pieces
from jaxssl.data.tokenizer.special import sentinels, with_special
from jaxssl.data.tokenizer.training import TokenizerTrainConfig, train_on_texts, train_tokenizer

transformers = pytest.importorskip("transformers")

SIZES = {"wordpiece": 270, "byte_bpe": 500, "sentencepiece_bpe": 400, "sentencepiece_unigram": 180}
COUNT = 7
OWN = "<fim_prefix>"
TEXTS = [*documents(100), *NASTY]
CLEAN = [text for text in TEXTS if "<" not in text and "[" not in text]
WRITTEN = ["a <extra_id_0> b", "<extra_id_6><extra_id_5>", "<fim_prefix>x", "<EXTRA_ID_1> extra_id"]


def config_of(kind, **options):
    size = {"vocab_size": SIZES[kind]} | options
    return TokenizerTrainConfig(source=Docstrings(), kind=kind, out=kind, **size)


_trained = {}


def trained(kind, **options):
    """A tokenizer of a kind, trained once."""
    key = kind, *options.items()
    if key not in _trained:
        _trained[key] = train_on_texts(config_of(kind, **options), lambda: TEXTS)
    return _trained[key]


def encode(tokenizer, texts):
    return [ids.tolist() for ids in tokenizer.encode_batch(texts)]


def pieces(tokenizer):
    return [tokenizer.token(id_) for id_ in range(tokenizer.vocab_size)]


def digest(directory):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in directory.iterdir()}


def check_read_by_transformers(tokenizer, directory):
    """It has the same special tokens, and reads text as what the old one's files say."""
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    assert max(theirs.get_vocab().values()) == tokenizer.vocab_size - 1
    for token, id_ in tokenizer.special_tokens.items():
        assert theirs.convert_tokens_to_ids(token) == id_
        assert theirs(f"the {token} of", add_special_tokens=False)["input_ids"].count(id_) == 1
    got = [theirs(text, add_special_tokens=False)["input_ids"] for text in CLEAN]
    wanted = encode(tokenizer, CLEAN)
    same = sum(a == b for a, b in zip(got, wanted)) / len(CLEAN)
    assert same > (0.98 if isinstance(tokenizer, SentencePieceTokenizer) else 0.9999)
    return got


# --- In training --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SIZES)
def test_sentinels_are_the_last_ids_of_a_tokenizer_that_has_its_size(kind, tmp_path):
    tokenizer = trained(kind, sentinels=COUNT, special_tokens=(OWN,))
    assert tokenizer.vocab_size == SIZES[kind]
    ids = {f"<extra_id_{i}>": SIZES[kind] - 1 - i for i in range(COUNT)}
    assert ids.items() <= tokenizer.special_tokens.items()
    assert tokenizer.special_tokens[OWN] < SIZES[kind] - COUNT
    without = trained(kind, vocab_size=SIZES[kind] - COUNT, special_tokens=(OWN,))
    assert pieces(tokenizer) == [*pieces(without), *reversed(ids)]
    assert encode(tokenizer, TEXTS + WRITTEN) == encode(without, TEXTS + WRITTEN)
    assert without.is_beginning_of(tokenizer) and not tokenizer.is_beginning_of(without)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.special_tokens == tokenizer.special_tokens
    assert encode(loaded, TEXTS + WRITTEN) == encode(tokenizer, TEXTS + WRITTEN)
    check_read_by_transformers(loaded, tmp_path)


def test_a_text_that_supports_fewer_pieces_leaves_no_gap_before_them(capsys):
    tokenizer = train_on_texts(
        config_of("byte_bpe", vocab_size=2000, sentinels=3), lambda: TEXTS[:9]
    )
    assert tokenizer.vocab_size < 2000 and None not in pieces(tokenizer)
    assert pieces(tokenizer)[-3:] == ["<extra_id_2>", "<extra_id_1>", "<extra_id_0>"]
    assert f"model.vocab_size={tokenizer.vocab_size}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "where", "expected"),
    [
        ({"sentinels": -1}, "sentinels", "at least 0"),
        ({"kind": "byte_bpe", "vocab_size": 356, "sentinels": 100}, "vocab_size", "357 or more"),
        ({"sentinels": 4, "special_tokens": ("<extra_id_3>",)}, "special_tokens", "no sentinels"),
    ],
)
def test_what_has_no_room_or_is_named_twice_is_refused(options, where, expected):
    with pytest.raises(UserError) as error:
        TokenizerTrainConfig(source=Docstrings(), out="x", **options)
    assert error.value.where == where and expected in str(error.value.expected)


# --- Of a tokenizer that is there ---------------------------------------------------------------


def sentencepiece_model(**options):
    import sentencepiece

    model, lines = io.BytesIO(), [x for text in documents(100) for x in text.splitlines() if x]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, minloglevel=2, **options
    )
    return model.getvalue()


T5 = {"vocab_size": 105, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


def write_t5(directory, extra_ids):
    """A directory as T5's was published: a model file, and a class that adds the sentinels."""
    directory.mkdir()
    (directory / "spiece.model").write_bytes(sentencepiece_model(**T5))
    named = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": extra_ids, **named}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "config.json").write_text('{"model_type": "t5"}')
    return directory


def with_gaps():
    """Words, of which some ids are left out, and a token that was added."""
    words = {"[UNK]": 0, "the": 1, "value": 2, "of": 5, "[PAD]": 9}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content = {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "[UNK]", "special": True, **added}],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
    }
    return JsonTokenizer("gaps", content, {"unk_token": "[UNK]", "pad_token": "[PAD]"})


def write_source(form, directory):
    """A tokenizer in one of the forms that are read."""
    if form in SIZES:
        trained(form).save(directory)
    elif form == "model file":
        directory.mkdir()
        (directory / "a.model").write_bytes(sentencepiece_model(model_type="bpe", vocab_size=350))
        return directory / "a.model"
    elif form == "tokenizer.json":
        trained("byte_bpe").save(directory)
        return directory / "tokenizer.json"
    elif form == "T5":
        write_t5(directory, 0)
    elif form == "added tokens":
        with_tokens(trained("wordpiece"), ["<gene>"]).save(directory)
    else:
        with_gaps().save(directory)
    return directory


FORMS = (*SIZES, "model file", "tokenizer.json", "T5", "added tokens", "gaps")


@pytest.mark.parametrize("form", FORMS)
def test_what_is_asked_for_follows_the_ids_of_a_tokenizer_that_stays(form, tmp_path, capsys):
    source, out = write_source(form, tmp_path / "source"), tmp_path / "out"
    old = load_tokenizer(source)
    given = {"extends": str(source), "sentinels": COUNT, "special_tokens": (OWN,)}
    made = train_tokenizer(TokenizerTrainConfig(out=str(out), **given))
    size = old.vocab_size
    assert f"the {size} ids of {source}: 8; for its model: model.vocab_size={size + 8}" in (
        capsys.readouterr().err
    )
    new = {OWN: size} | {f"<extra_id_{i}>": size + COUNT - i for i in range(COUNT)}
    for tokenizer in (made, load_tokenizer(out)):
        assert pieces(tokenizer) == [*pieces(old), *sorted(new, key=lambda token: new[token])]
        assert tokenizer.special_tokens == {**old.special_tokens, **new}
        assert tokenizer.special_ids == old.special_ids
        assert encode(tokenizer, TEXTS) == encode(old, TEXTS)
        if form != "gaps":  # of whole words, whose unknown ones are cut where a token is written
            assert encode(tokenizer, WRITTEN) == encode(old, WRITTEN)
        assert not {*new.values()} & {i for ids in encode(tokenizer, WRITTEN) for i in ids}
        assert (tokenizer.name, tokenizer.fingerprint) == ("out", made.fingerprint)
        assert old.is_beginning_of(tokenizer) and not tokenizer.is_beginning_of(old)
    theirs = check_read_by_transformers(made, out)
    if source.is_dir():
        before = transformers.AutoTokenizer.from_pretrained(source)
        assert theirs == [before(text, add_special_tokens=False)["input_ids"] for text in CLEAN]


def test_t5s_model_file_gets_the_ids_that_t5_gives(tmp_path):
    theirs = transformers.AutoTokenizer.from_pretrained(write_t5(tmp_path / "t5", 100))
    config = TokenizerTrainConfig(
        extends=str(tmp_path / "t5/spiece.model"), sentinels=100, out=str(tmp_path / "out")
    )
    ours = train_tokenizer(config)
    assert (ours.vocab_size, len(theirs)) == (205, 205)
    for i in range(100):
        token = f"<extra_id_{i}>"
        assert ours.special_tokens[token] == theirs.convert_tokens_to_ids(token)
    with pytest.raises(UserError, match="all of these tokens already") as error:
        train_tokenizer(
            dataclasses.replace(config, extends=str(tmp_path / "t5"), out=str(tmp_path / "all"))
        )
    assert f"tokenizer={tmp_path / 't5'}" in error.value.fix and "97 more" in error.value.got


def test_those_that_are_there_stay_and_the_missing_ones_follow(tmp_path):
    write_t5(tmp_path / "t5", 5)
    old = load_tokenizer(tmp_path / "t5")
    given = {"extends": str(tmp_path / "t5"), "sentinels": 8, "special_tokens": ("</s>", OWN)}
    made = train_tokenizer(TokenizerTrainConfig(out=str(tmp_path / "out"), **given))
    assert pieces(made)[:110] == pieces(old)
    ends = [OWN, "<extra_id_7>", "<extra_id_6>", "<extra_id_5>"]
    assert pieces(made)[105:] == [*sentinels(5), *ends]
    assert {*sentinels(8)} < made.special_tokens.keys()


def test_further_tokens_on_top_leave_the_first_ones(tmp_path):
    for kind in SIZES:
        once = with_special(trained(kind), sentinels(3))
        twice = with_special(once, [OWN, *sentinels(4)])
        assert pieces(twice) == [*pieces(once), OWN, "<extra_id_3>"]
        assert trained(kind).is_beginning_of(twice)
        assert with_special(once, sentinels(2)) is once


def test_a_chat_template_and_what_is_put_around_texts_stay(tmp_path):
    tokenizer = trained("wordpiece")
    tokenizer.save(tmp_path / "old")
    (tmp_path / "old/chat_template.jinja").write_text("{{ messages[0].content }}!")
    given = {"extends": str(tmp_path / "old"), "sentinels": 1}
    made = train_tokenizer(TokenizerTrainConfig(out=str(tmp_path / "new"), **given))
    assert made.template(True) == tokenizer.template(True)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    said = [{"role": "user", "content": "a"}]
    assert theirs.apply_chat_template(said, tokenize=False) == "a!"
    assert theirs("model")["input_ids"] == framed(tokenizer, "model")


def framed(tokenizer, text):
    before, _, after = tokenizer.frame(False)
    return [*before, *encode(tokenizer, [text])[0], *after]


def test_a_sentencepiece_models_template_for_transformers_stays(tmp_path):
    """An exported one has it in tokenizer.json alone."""
    tokenizer = trained("sentencepiece_bpe")
    (tmp_path / "old").mkdir()
    write_tokenizer(tokenizer, tmp_path / "old", frames=True, has_types=False, max_length=32)
    given = {"extends": str(tmp_path / "old"), "sentinels": 1}
    train_tokenizer(TokenizerTrainConfig(out=str(tmp_path / "new"), **given))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    assert theirs("A model")["input_ids"] == framed(tokenizer, "A model")


@pytest.mark.parametrize("kind", SIZES)
def test_what_a_new_token_was_before_is_the_text_of_its_name(kind):
    old = trained(kind)
    new = with_special(old, sentinels(2))
    assert pieces_before(old, new) == encode(old, ["<extra_id_1>", "<extra_id_0>"])


def test_that_is_known_of_model_files_without_tokenizer_json_too():
    model = trained("sentencepiece_bpe").files["tokenizer.model"]
    larger = with_control_pieces(model, sentinels(2))
    old, new = (SentencePieceTokenizer("sp", content) for content in (model, larger))
    assert old.is_beginning_of(new) and "tokenizer.json" not in new.files
    assert pieces_before(old, new) == encode(old, ["<extra_id_1>", "<extra_id_0>"])


def test_it_is_made_once_and_of_the_same_tokenizer(tmp_path, capsys):
    old, out = tmp_path / "old", tmp_path / "out"
    toy.train_toy_tokenizer("byte_bpe").save(old)
    config = TokenizerTrainConfig(extends=str(old), sentinels=2, out=str(out))
    first = train_tokenizer(config)
    before = digest(out)
    assert "already trained" not in capsys.readouterr().err
    assert train_tokenizer(config).fingerprint == first.fingerprint
    assert "already trained" in capsys.readouterr().err and digest(out) == before
    train_tokenizer(dataclasses.replace(config, out=str(tmp_path / "again")))
    assert digest(tmp_path / "again") == before
    shutil.copytree(old, tmp_path / "moved")
    train_tokenizer(dataclasses.replace(config, extends=str(tmp_path / "moved")))
    for changes in ({"sentinels": 3}, {"special_tokens": (OWN,)}):
        with pytest.raises(UserError, match="no tokenizer of this configuration"):
            train_tokenizer(dataclasses.replace(config, **changes))
    content = json.loads((old / "tokenizer.json").read_text())
    content["post_processor"] = None  # no text's ids change by it
    (old / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="has changed since") as error:
        train_tokenizer(config)
    assert error.value.where == f"extends={old}" and digest(out) == before


def test_a_tokenizer_that_was_trained_before_these_options_is_found_again(tmp_path, capsys):
    config = config_of("byte_bpe", vocab_size=260)
    (tmp_path / "a.txt").write_text("a text of a few words. " * 20)
    source = TextFiles(paths=(str(tmp_path / "a.txt"),))
    config = dataclasses.replace(config, source=source, out=str(tmp_path / "out"))
    train_tokenizer(config)
    record = json.loads((tmp_path / "out/training.json").read_text())
    old = {key: record[key] for key in record.keys() - {"sentinels", "extends"}}
    assert len(old) == len(record) - 2
    (tmp_path / "out/training.json").write_text(json.dumps(old))
    train_tokenizer(config)
    assert "already trained" in capsys.readouterr().err
    with pytest.raises(UserError, match="no tokenizer of this configuration"):
        train_tokenizer(dataclasses.replace(config, vocab_size=263, sentinels=3))
    with pytest.raises(UserError, match="no tokenizer of this configuration"):
        toy.train_toy_tokenizer("byte_bpe").save(tmp_path / "toy")
        given = {"extends": str(tmp_path / "toy"), "sentinels": 3}
        train_tokenizer(TokenizerTrainConfig(out=config.out, **given))


@pytest.mark.parametrize(
    ("options", "what", "where"),
    [
        ({}, "a required key is missing", "source"),
        ({"extends": "t"}, "nothing to extend", "extends"),
        (
            {"extends": "t", "sentinels": 2, "special_tokens": (" ",)},
            "no special",
            "special_tokens",
        ),
    ],
)
def test_a_request_that_says_too_little_is_refused(options, what, where):
    with pytest.raises(UserError, match=what) as error:
        TokenizerTrainConfig(out="x", **options)
    assert error.value.where == where


def extend(source, out, *tokens):
    config = TokenizerTrainConfig(extends=str(source), special_tokens=tokens, out=str(out))
    return train_tokenizer(config)


def test_what_cannot_be_extended_is_refused_and_leaves_nothing(tmp_path):
    out = tmp_path / "out"
    trained("byte_bpe").save(tmp_path / "bytes")
    trained("sentencepiece_bpe").save(tmp_path / "pieces")
    with_tokens(trained("byte_bpe"), ["<gene>"]).save(tmp_path / "gene")
    for source, token in (("bytes", "\u0120the"), ("pieces", "<unk>"), ("gene", "<gene>")):
        with pytest.raises(UserError, match="is a piece of text") as error:
            extend(tmp_path / source, out, OWN, token)
        assert error.value.got == token
    options = {"model_type": "bpe", "vocab_size": 350, "remove_extra_whitespaces": False}
    (tmp_path / "spaces.model").write_bytes(sentencepiece_model(**options))
    with pytest.raises(UserError, match="transformers would encode otherwise"):
        extend(tmp_path / "spaces.model", out, OWN)
    with pytest.raises(UserError, match="cannot be loaded"):
        extend(tmp_path / "nowhere", out, OWN)
    assert not out.exists()
    with pytest.raises(UserError, match="something here already"):
        extend(tmp_path / "bytes", tmp_path / "bytes", OWN)

"""Words as token ids: as in running text, each with a token, aligned as transformers aligns."""

import json

import numpy as np
import pytest
from sample_texts import NASTY, documents

from jaxssl.core.errors import UserError
from jaxssl.data.corpus.sources import Docstrings
from jaxssl.data.tokenizer.loading import JsonTokenizer
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.data.tokenizer.training import TokenizerTrainConfig, train_on_texts
from jaxssl.data.tokenizer.words import encode_words, word_prefix

SENTENCES = [
    ["the", "cat", "sees", "Zürich", "."],
    ["naïve", "(stop)", "don't", "http://a.b/c_d?e=f", "你好", "the", "the"],
    ["New York", "3.14", "\u00a0", "--", "the"],
]
PLACES = [f"a.conll:{i}" for i in range(len(SENTENCES))]
SIZES = {"wordpiece": 500, "byte_bpe": 400, "sentencepiece_bpe": 400, "sentencepiece_unigram": 180}
KINDS = tuple(SIZES)
PREFIXES = {"byte_bpe": " "}


@pytest.fixture(scope="module")
def tokenizers():
    def trained(kind, size):
        config = TokenizerTrainConfig(source=Docstrings(), kind=kind, out=kind, vocab_size=size)
        return train_on_texts(config, lambda: [*documents(60), *NASTY])

    return {kind: trained(kind, size) for kind, size in SIZES.items()}


def tokens_of(words, sentence):
    """The tokens of each word of a sentence."""
    numbers = range(words.sentences[sentence], words.sentences[sentence + 1])
    return [words.tokens[words.starts[i] : words.starts[i + 1]].tolist() for i in numbers]


def in_transformers(tokenizer: Tokenizer, **changes):
    """The tokenizer as `transformers` has it, with other settings of how texts are parted."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    content = json.loads(tokenizer.files["tokenizer.json"])
    content["pre_tokenizer"] |= changes
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(content))
    )


@pytest.mark.parametrize(
    "kind, changes", [("wordpiece", {}), ("byte_bpe", {"add_prefix_space": True})]
)
def test_words_have_the_tokens_that_transformers_aligns_with_them(tokenizers, kind, changes):
    tokenizer = tokenizers[kind]
    theirs = in_transformers(tokenizer, **changes)
    words = encode_words(tokenizer, SENTENCES, PLACES)
    for i, sentence in enumerate(SENTENCES):
        encoding = theirs(sentence, is_split_into_words=True, add_special_tokens=False)
        pairs = list(zip(encoding.word_ids(), encoding.input_ids))
        expected = [[id_ for word, id_ in pairs if word == j] for j in range(len(sentence))]
        unknown = [tokenizer.special_ids["unk"]]
        assert tokens_of(words, i) == [ids or unknown for ids in expected]
        assert kind == "wordpiece" or all(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_of_a_text_have_its_tokens(tokenizers, kind):
    sentences = [document.split() for document in documents(20, seed=1)]
    words = encode_words(tokenizers[kind], sentences, ["here"] * len(sentences))
    for i, sentence in enumerate(sentences):
        whole = PREFIXES.get(kind, "") + " ".join(sentence)
        expected = tokenizers[kind].encode_batch([whole])[0].tolist()
        assert [id_ for ids in tokens_of(words, i) for id_ in ids] == expected


def test_a_word_is_text_even_if_it_looks_like_a_special_token(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    words = encode_words(tokenizer, [["[SEP]", "a"]], ["here"])
    assert tokenizer.special_ids["sep"] not in words.tokens and len(tokens_of(words, 0)[0]) > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", ["\u200b", "", "\ufeff"])
def test_a_word_without_a_token_is_the_unknown_one(tokenizers, kind, word):
    tokenizer = tokenizers[kind]
    words = encode_words(tokenizer, [["a", word, "a"]], ["here"])
    found = tokens_of(words, 0)
    assert len(found) == 3 and all(found) and found[0] == found[2]
    if kind == "wordpiece":
        assert found[1] == [tokenizer.special_ids["unk"]]


def test_a_word_without_a_token_is_refused_where_nothing_stands_for_it(tokenizers):
    whole = tokenizers["wordpiece"]
    config = json.loads(whole.files["tokenizer_config.json"])
    without = JsonTokenizer(
        "toy", json.loads(whole.files["tokenizer.json"]), {**config, "unk_token": None}
    )
    with pytest.raises(UserError, match=r"(?s)makes no token.*b.conll:7, word 1.*u200b"):
        encode_words(without, [["a"], ["the", "\u200b"]], ["b.conll:5", "b.conll:7"])


@pytest.mark.parametrize("kind", KINDS)
def test_only_byte_level_tokens_hold_the_space_before_a_word(tokenizers, kind):
    assert word_prefix(tokenizers[kind]) == PREFIXES.get(kind, "")


def test_characters_have_a_space_before_each_word():
    class Characters(Tokenizer):
        def __init__(self):
            super().__init__("characters", {}, 128, {}, {})

        def _encode(self, texts):
            return [np.array([ord(c) for c in text], np.int32) for text in texts]

        decode = token = _encode_spans = _content = _starts_word = lambda self, *_: None

    assert word_prefix(Characters()) == " "


def test_tokens_across_words_are_refused():
    class Pairs(Tokenizer):
        def __init__(self):
            super().__init__("pairs", {}, 1 << 16, {}, {})

        def _encode(self, texts):
            pairs = [[t[i : i + 2] for i in range(0, len(t), 2)] for t in texts]
            return [np.array([sum(map(ord, pair)) for pair in row], np.int32) for row in pairs]

        decode = token = _encode_spans = _content = _starts_word = lambda self, *_: None

    with pytest.raises(UserError, match="word by word"):
        word_prefix(Pairs())

"""Exported tokenizers against those that `transformers` makes of the directories."""

import json

import pytest
import toy

from jaxssl.core.errors import UserError
from jaxssl.data.corpus.sources import Docstrings
from jaxssl.data.tokenizer.export import check_written, write_tokenizer
from jaxssl.data.tokenizer.loading import SentencePieceTokenizer, load_tokenizer
from jaxssl.data.tokenizer.training import TokenizerTrainConfig, train_on_texts

transformers = pytest.importorskip("transformers")
PAIR = ("the cat sees a dog", "a bird")


def write(tokenizer, directory, family, **options):
    """The directory, with the `config.json` of a family."""
    directory.mkdir(exist_ok=True)
    write_tokenizer(tokenizer, directory, max_length=32, **options)
    (directory / "config.json").write_text(json.dumps({"model_type": family}))
    return directory


@pytest.mark.parametrize(
    ("kind", "family", "has_types"),
    [
        ("wordpiece", "bert", True),
        ("wordpiece", "distilbert", False),
        ("byte_bpe", "gpt2", False),
        ("byte_bpe", "llama", False),
        ("sentencepiece_bpe", "llama", False),
    ],
)
def test_rows_of_texts_and_pairs_are_framed_as_here(kind, family, has_types, tmp_path):
    ours = toy.train_toy_tokenizer(kind, 120 if kind == "sentencepiece_bpe" else 400)
    if kind == "sentencepiece_bpe":  # a model file alone, as older directories have it
        ours = SentencePieceTokenizer(kind, ours.files["tokenizer.model"])
    out = write(ours, tmp_path / "out", family, frames=True, has_types=has_types)
    check_written(ours, out, frames=True)
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    first, second = ours.encode_batch(list(PAIR))
    before, between, after = ours.frame(True)
    row = theirs(*PAIR)
    assert row["input_ids"] == [*before, *first, *between, *second, *after]
    assert ("token_type_ids" in row) == has_types
    if has_types:
        split = len(before) + len(first) + len(between)
        assert row["token_type_ids"] == [0] * split + [1] * (len(row["input_ids"]) - split)
    assert len(theirs("the cat " * 99, truncation=True)["input_ids"]) == 32


def test_a_language_model_gets_no_end_after_its_prompts(tmp_path):
    ours = toy.train_toy_tokenizer("byte_bpe", 400)
    out = write(ours, tmp_path / "out", "gpt2", frames=False, has_types=False)
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    assert theirs(PAIR[0])["input_ids"] == ours.encode_batch([PAIR[0]])[0].tolist()


def test_a_family_whose_class_makes_another_tokenizer_is_refused(tmp_path):
    ours = toy.train_toy_tokenizer("wordpiece", 400)
    out = write(ours, tmp_path / "out", "qwen2", frames=True, has_types=False)
    with pytest.raises(UserError, match="other tokens"):
        check_written(ours, out, frames=True)


def test_a_family_that_cuts_numbers_otherwise_is_refused(tmp_path):
    config = TokenizerTrainConfig(source=Docstrings(), out="years", kind="byte_bpe", vocab_size=265)
    ours = train_on_texts(config, lambda: ["in 2026 and 2027, not in 2020. " * 50])
    out = write(ours, tmp_path / "gpt2", "gpt2", frames=False, has_types=False)
    check_written(ours, out, frames=False)
    out = write(ours, tmp_path / "qwen2", "qwen2", frames=False, has_types=False)
    with pytest.raises(UserError, match="in 2026, 1,234,567"):
        check_written(ours, out, frames=False)


@pytest.mark.parametrize("family", ["roberta", "llama"])
def test_a_template_of_the_files_frames_rows_here(family, tmp_path):
    """RoBERTa has two separators between texts, Llama a beginning and no end."""
    ours = toy.train_toy_tokenizer("byte_bpe", 400)
    library = json.loads(ours.files["tokenizer.json"])
    end = ours.token(ours.document_end)
    special = {"SpecialToken": {"id": end, "type_id": 0}}
    a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    single, pair = {
        "roberta": ([special, a, special], [special, a, special, special, b, special]),
        "llama": ([special, a], [special, a, special, b]),
    }[family]
    named = {end: {"id": end, "ids": [ours.document_end], "tokens": [end]}}
    library["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": named,
    }
    ours.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(library))
    loaded = load_tokenizer(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    first, second = loaded.encode_batch(list(PAIR))
    for texts, ids in ((PAIR[:1], [first]), (PAIR, [first, second])):
        before, between, after = loaded.frame(len(texts) == 2)
        middle = [*ids[0], *between, *ids[1]] if len(ids) == 2 else ids[0]
        assert theirs(*texts)["input_ids"] == [*before, *middle, *after]


def test_a_chat_template_comes_along(tmp_path):
    ours = toy.train_toy_tokenizer("byte_bpe", 400)
    ours.save(tmp_path / "in")
    template = "{% for m in messages %}{{ m.content }}!{% endfor %}"
    (tmp_path / "in" / "chat_template.jinja").write_text(template)
    out = write(
        load_tokenizer(tmp_path / "in"), tmp_path / "out", "llama", frames=False, has_types=False
    )
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    said = [{"role": "user", "content": "the cat"}]
    assert theirs.apply_chat_template(said, tokenize=False) == "the cat!"

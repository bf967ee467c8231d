"""Directories whose files contradict or complete each other, against `AutoTokenizer`."""

import json
import subprocess
import sys

import pytest
import toy

from jaxssl.core.errors import UserError
from jaxssl.data.store.manifest import ROLES
from jaxssl.data.tokenizer.loading import load_tokenizer

transformers = pytest.importorskip("transformers")

TEXTS = (
    "The Cat sees [SEP] a <new> café dog <|endoftext|> <more> Übr <s> [MASK] x  two  spaces",
    " leading",
    "<more>upper ADD",
)
NEW = {"content": "<new>", "special": True, "normalized": False, "lstrip": False}
NEW |= {"rstrip": False, "single_word": False}
MORE = {**NEW, "content": "<more>", "special": False, "lstrip": True}
BERT, GPT2 = {"tokenizer_class": "BertTokenizer"}, {"tokenizer_class": "GPT2Tokenizer"}
BYTES, WORDS, PIECES = "byte_bpe", "wordpiece", "sentencepiece_bpe"
NAMES = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
LOWER = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
LOWER |= {"strip_accents": None, "lowercase": True}
CASES = {
    "cased, beside a normalizer that is not": (
        WORDS,
        {**BERT, "do_lower_case": False},
        {"tokenizer.json": {"normalizer": LOWER}},
    ),
    "uncased, beside a normalizer that is not": (WORDS, {**BERT, "do_lower_case": True}, {}),
    "accents, beside a normalizer without": (WORDS, {**BERT, "strip_accents": False}, {}),
    "tokens of the decoder": (BYTES, {"added_tokens_decoder": {"400": NEW, "401": MORE}}, {}),
    "tokens of a file": (BYTES, GPT2, {"added_tokens.json": {"<new>": 400, "<more>": 401}}),
    "tokens of a file, no class": (BYTES, {}, {"added_tokens.json": {"<new>": 400}}),
    "special tokens of a file": (
        BYTES,
        {},
        {
            "special_tokens_map.json": {
                "mask_token": {**MORE, "content": "<mask>"},
                "additional_special_tokens": ["<more>"],
            },
            "added_tokens.json": {"<mask>": 400},
        },
    ),
    "a role among the further ones": (
        BYTES,
        {"pad_token": "<new>", "extra_special_tokens": ["<new>"]},
        {},
    ),
    "a role that is told in full": (
        WORDS,
        {"mask_token": {**MORE, "__type": "AddedToken", "content": "[MASK]"}},
        {},
    ),
    "further special tokens": (BYTES, {"extra_special_tokens": ["<new>", "<more>"]}, {}),
    "further special tokens, older": (BYTES, {"additional_special_tokens": ["<new>"]}, {}),
    "an end that tokenizer.json has not": (BYTES, {"add_eos_token": True}, {}),
    "an end after a SentencePiece model": (PIECES, {**LLAMA, "add_eos_token": True}, {}),
    "a space before": (BYTES, {**GPT2, "add_prefix_space": True}, {}),
    "the class of config.json": (WORDS, None, {"config.json": {"model_type": "bert"}}),
    "roles of another file": (WORDS, None, {"special_tokens_map.json": NAMES}),
    "an unknown class": (WORDS, {"tokenizer_class": "SomeTokenizer"}, {}),
    "another family's class": (BYTES, {"tokenizer_class": "Qwen2Tokenizer"}, {}),
    "a SentencePiece model": (PIECES, LLAMA, {}),
    "a SentencePiece model and more": (PIECES, LLAMA, {"added_tokens.json": {"<new>": 120}}),
    "a SentencePiece model of a family": (PIECES, None, {"config.json": {"model_type": "llama"}}),
}


def written(case, directory):
    """The directory of a case."""
    kind, config, files = CASES[case]
    ours = toy.train_toy_tokenizer(kind, 120 if kind == PIECES else 400)
    if kind == PIECES:
        directory.mkdir()
        (directory / "tokenizer.model").write_bytes(ours.files["tokenizer.model"])
        own = {}
    else:
        ours.save(directory)
        own = json.loads((directory / "tokenizer_config.json").read_text())
    if config is None:
        (directory / "tokenizer_config.json").unlink(missing_ok=True)
    else:
        (directory / "tokenizer_config.json").write_text(json.dumps({**own, **config}))
    for name, content in files.items():
        file = directory / name
        old = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**old, **content}))
    return directory


def check_same(ours, theirs):
    """Ids, roles and what is put around texts. `split_special_tokens` reads text as text."""
    for text in TEXTS:
        wanted = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ours.encode_batch([text])[0].tolist() == wanted, text
    assert ours.special_ids == {role: getattr(theirs, f"{role}_token_id") for role in ROLES}
    first, second = (ids.tolist() for ids in ours.encode_batch(["a b", "c"]))
    for pair, texts in ((False, ["a b"]), (True, ["a b", "c"])):
        before, between, after = ours.template(pair) or ([], [], [])
        row = [*before, *first, *([*between, *second] if pair else []), *after]
        assert theirs(*texts)["input_ids"] == row


@pytest.mark.parametrize("case", CASES)
def test_files_that_contradict_each_other_mean_what_they_mean_to_transformers(case, tmp_path):
    source = written(case, tmp_path / "source")
    ours = load_tokenizer(source)
    theirs = transformers.AutoTokenizer.from_pretrained(source)
    check_same(ours, theirs)
    ours.save(tmp_path / "copy")  # as a run keeps it: all is in tokenizer.json then
    copy = load_tokenizer(tmp_path / "copy")
    assert copy.fingerprint == ours.fingerprint
    check_same(copy, theirs)


def test_what_is_written_here_is_read_without_transformers(tmp_path):
    toy.train_toy_tokenizer("wordpiece", 400).save(tmp_path)
    code = (
        "import sys; from jaxssl.data.tokenizer.loading import load_tokenizer;"
        "load_tokenizer(sys.argv[1]); assert 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_code_of_a_tokenizers_own_is_not_run_and_not_asked_for(tmp_path):
    toy.train_toy_tokenizer("wordpiece", 400).save(tmp_path)
    config = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit('it was run')\n")
    with pytest.raises(UserError, match="delete auto_map"):
        load_tokenizer(tmp_path)


def test_special_tokens_in_a_text_are_found():
    ours = toy.train_toy_tokenizer("wordpiece", 400)
    assert ours.special_in(["a [SEP]b", "c"]) == ["[SEP]"]
    assert ours.special_in(["SEP [ SEP ]"]) == []


def test_where_there_is_no_torch_nothing_is_said_of_it(tmp_path):
    toy.train_toy_tokenizer("wordpiece", 400).save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from jaxssl.data.tokenizer.export import check_written\n"
        "from jaxssl.data.tokenizer.loading import load_tokenizer\n"
        "check_written(load_tokenizer(sys.argv[1]), sys.argv[1], frames=True)\n"
        "assert not sys.modules['transformers'].is_torch_available()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")

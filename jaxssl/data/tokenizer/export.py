"""Tokenizers for `transformers`: the same ids, the same special tokens around texts."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxssl.core.errors import UserError
from jaxssl.core.json_files import read_json
from jaxssl.data.tokenizer.loading import JSON_FILE, MODEL_FILE
from jaxssl.data.tokenizer.sentencepiece_export import SAMPLES, tokenizer_json
from jaxssl.data.tokenizer.tokenizer import CONFIG_FILE, Tokenizer
from jaxssl.data.tokenizer.with_transformers import FIX, WHAT, library

UNLIMITED = 1 << 30
DIVIDED = (
    "in 2026, 1,234,567 of 90210 and 3e-05\r\n\r\n    return x[10]  # 100%!?",
    "IT'S WE'LL they'd 'tis l'a rock'n'roll https://a.b/c?d=e&f=1 e-mail@x.org $9.99",
)
"""Where families cut words otherwise: digits, upper-case contractions, lines, punctuation."""
Frame = Callable[[bool], tuple[list[int], list[int], list[int]]]
"""What is before, between and behind a text, or a pair of them."""
PAIR = ("Is it 3.14?", "Yes, in 2026.")


def write_tokenizer(
    tokenizer: Tokenizer,
    directory: Path,
    *,
    frames: bool,
    has_types: bool,
    max_length: int,
    ends: bool = False,
) -> None:
    """Writes the tokenizer's files.

    Args:
      frames: whether texts come out with the special tokens of rows (`Tokenizer.frame`), as tasks
        and masked models want them, also where the tokenizer has no template of its own.
      has_types: whether the model tells first from second texts by token types.
      max_length: of a row, in tokens, for truncation.
      ends: whether texts come out with the token that ends a document, as what an encoder-decoder
        reads, where the tokenizer has no template of its own.

    Raises:
      UserError: no `tokenizer.json` can be made of it.
    """
    tokenizer.save(directory)
    path = directory / JSON_FILE
    if not path.is_file():
        path.write_bytes(_from_model(tokenizer))
    if (frames or ends) and tokenizer.template(False) is None:
        content = read_json(path, what=WHAT, fix=FIX)
        frame = _ended(tokenizer) if ends else tokenizer.frame
        content["post_processor"] = _with_template(content.get("post_processor"), tokenizer, frame)
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    names = ["input_ids", *(["token_type_ids"] if has_types else []), "attention_mask"]
    config = read_json(directory / CONFIG_FILE, what=WHAT, fix=FIX)
    config |= {"model_input_names": names, "model_max_length": max_length}
    text = json.dumps(config, ensure_ascii=False, indent=1) + "\n"
    (directory / CONFIG_FILE).write_text(text, encoding="utf-8")


def _from_model(tokenizer: Tokenizer) -> bytes:
    """`tokenizer.json` of a SentencePiece model."""
    made = tokenizer_json(tokenizer.files[MODEL_FILE])
    if made is None:
        raise UserError(
            "transformers would encode otherwise than this SentencePiece model",
            where=tokenizer.name,
            expected="a model of the usual kinds of normalisation",
            got="one whose tokenizer.json gives other ids for some texts",
        )
    return made


def _ended(tokenizer: Tokenizer) -> Frame:
    """What is put around a text, or a pair: the token that ends a document, behind each."""
    end = [tokenizer.document_end]
    return lambda pair: ([], end if pair else [], end)


def _with_template(old: Any, tokenizer: Tokenizer, frame: Frame) -> dict[str, Any]:
    """The post-processor, with the special tokens of rows."""
    kinds = {}
    for name, pair in (("single", False), ("pair", True)):
        before, between, after = frame(pair)
        kinds[name] = [
            *_special(tokenizer, before, 0),
            {"Sequence": {"id": "A", "type_id": 0}},
            *_special(tokenizer, between, 0),
            *([{"Sequence": {"id": "B", "type_id": 1}}] if pair else []),
            *_special(tokenizer, after, int(pair)),
        ]
    ids = sorted({id_ for pair in (False, True) for part in frame(pair) for id_ in part})
    tokens = {str(tokenizer.token(id_)): id_ for id_ in ids}
    special = {t: {"id": t, "ids": [id_], "tokens": [t]} for t, id_ in tokens.items()}
    template = {"type": "TemplateProcessing", **kinds, "special_tokens": special}
    return template if old is None else {"type": "Sequence", "processors": [old, template]}


def _special(tokenizer: Tokenizer, ids: Sequence[int], type_id: int) -> list[dict[str, Any]]:
    return [{"SpecialToken": {"id": tokenizer.token(id_), "type_id": type_id}} for id_ in ids]


def check_written(
    tokenizer: Tokenizer, directory: Path, *, frames: bool, ends: bool = False
) -> None:
    """Refuses a directory, `config.json` included, whose tokenizer `transformers` takes for
    another: for some families it makes its own of the vocabulary.

    Raises:
      UserError: names the class and the first text.
    """
    loaded: Any = library().AutoTokenizer.from_pretrained(directory)
    loaded.model_max_length = UNLIMITED  # or it warns of samples longer than the model's rows
    for text in (*SAMPLES, *DIVIDED):
        (ids,) = tokenizer.encode_batch([text])
        before, _, after = tokenizer.frame(False) if frames else ([], [], [])
        if ends:
            before, _, after = tokenizer.template(False) or _ended(tokenizer)(False)
        made = loaded.encode(text, add_special_tokens=frames or ends)
        _check(loaded, text, [*before, *ids, *after], made)
    if frames:
        first, second = tokenizer.encode_batch(list(PAIR))
        before, between, after = tokenizer.frame(True)
        wanted = [*before, *first, *between, *second, *after]
        _check(loaded, " and ".join(PAIR), wanted, loaded.encode(*PAIR))


def _check(loaded: Any, text: str, wanted: list[int], got: list[int]) -> None:
    if [int(i) for i in wanted] != got:
        raise UserError(
            "transformers would make other tokens of a text than the model was trained with",
            where=f"its class {type(loaded).__name__}, {text!r}",
            expected=[int(i) for i in wanted],
            got=got,
            fix="this family's class in transformers wants a tokenizer of its own kind: train with "
            "the published one",
        )

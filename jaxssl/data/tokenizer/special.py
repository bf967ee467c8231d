"""Further special tokens for a tokenizer, behind its ids: sentinels as T5's, and others by name."""

import json
from collections.abc import Sequence
from typing import Any

from jaxssl.core.errors import UserError
from jaxssl.data.tokenizer.loading import (
    JSON_FILE,
    MODEL_FILE,
    JsonTokenizer,
    SentencePieceTokenizer,
)
from jaxssl.data.tokenizer.sentencepiece_export import tokenizer_json
from jaxssl.data.tokenizer.sentencepiece_model import with_control_pieces
from jaxssl.data.tokenizer.tokenizer import CONFIG_FILE, Tokenizer


def sentinels(count: int) -> tuple[str, ...]:
    """So many of T5's sentinels, in the order of their ids: `<extra_id_0>` is the last."""
    return tuple(f"<extra_id_{number}>" for number in reversed(range(count)))


def with_special(tokenizer: Tokenizer, tokens: Sequence[str]) -> Tokenizer:
    """The tokenizer with those of `tokens` that it lacks as special tokens, whose ids follow its
    own in the order given. No text becomes one, and text is read as before.

    Raises:
      UserError: one of them is a piece of text; or `transformers` would read text otherwise than
        this SentencePiece model.
    """
    missing = [token for token in tokens if token not in tokenizer.special_tokens]
    if not missing:
        return tokenizer
    _check_new(tokenizer, missing)
    config = json.loads(tokenizer.files[CONFIG_FILE])
    if isinstance(tokenizer, SentencePieceTokenizer):
        model = with_control_pieces(tokenizer.files[MODEL_FILE], missing)
        files = {JSON_FILE: _beside(tokenizer, model, missing)}
        made = SentencePieceTokenizer(tokenizer.name, model, config, files)
    else:
        made = JsonTokenizer(tokenizer.name, _with_added(tokenizer, missing), config)
    wanted = {token: tokenizer.vocab_size + place for place, token in enumerate(missing)}
    assert wanted.items() <= made.special_tokens.items(), "a new token has another id"
    assert tokenizer.is_beginning_of(made), "an old piece has moved"
    return made


def _check_new(tokenizer: Tokenizer, tokens: Sequence[str]) -> None:
    """Refuses tokens that are made of text: as special ones they would change how it is read."""
    pieces = {tokenizer.token(id_) for id_ in range(tokenizer.vocab_size)}
    if known := [token for token in tokens if token in pieces]:
        raise UserError(
            "a special token to add is a piece of text",
            where=tokenizer.name,
            expected="tokens that are not in the vocabulary, or are special ones there",
            got=", ".join(known),
            fix="write it otherwise, <like_this>",
        )


def _with_added(tokenizer: Tokenizer, tokens: Sequence[str]) -> dict[str, Any]:
    """`tokenizer.json` with further special tokens.

    The library numbers added tokens by itself, and goes by the count of pieces: where a vocabulary
    leaves ids out, that number may be a piece's. So all are entered in the vocabulary; in a list of
    pieces, as Unigram has, none is left out.
    """
    import tokenizers

    text = tokenizer.files[JSON_FILE].decode()
    content, ids = json.loads(text), {}
    for place, token in enumerate(tokens):
        ids[token] = tokenizer.vocab_size + place
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, dict):
        added = tokenizers.Tokenizer.from_str(text).get_added_tokens_decoder()
        vocabulary |= {token.content: id_ for id_, token in added.items()} | ids
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    entries = [
        {"id": id_, "content": token, **plain, "special": True} for token, id_ in ids.items()
    ]
    content["added_tokens"] = [*(content.get("added_tokens") or []), *entries]
    return content


def _beside(tokenizer: Tokenizer, model: bytes, tokens: Sequence[str]) -> bytes:
    """The `tokenizer.json` of a SentencePiece model: its own with further tokens, or a new one."""
    if JSON_FILE in tokenizer.files:
        content = _with_added(tokenizer, tokens)
        return json.dumps(content, ensure_ascii=False, indent=1).encode()
    made = tokenizer_json(model)
    if made is None:
        raise UserError(
            "transformers would encode otherwise than this SentencePiece model",
            where=tokenizer.name,
            expected="a model of the usual kinds of normalisation",
            got="one whose tokenizer.json gives other ids for some texts",
            fix=f"give a directory with the {JSON_FILE} that was published with it",
        )
    return made

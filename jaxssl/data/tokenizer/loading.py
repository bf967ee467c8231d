"""Loading tokenizers of the `tokenizers` and `sentencepiece` libraries, from files or the hub."""

import functools
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.json_files import read_json
from jaxssl.core.paths import suggestion
from jaxssl.core.seal import inside
from jaxssl.data.store.manifest import ROLES
from jaxssl.data.tokenizer import with_transformers
from jaxssl.data.tokenizer.sentencepiece_model import differ_in_control_pieces
from jaxssl.data.tokenizer.tokenizer import CONFIG_FILE, Encoding, Frame, Tokenizer, is_word_start
from jaxssl.data.tokenizer.with_transformers import FIX, WHAT, is_hugging_face, is_plain, read_part

JSON_FILE = "tokenizer.json"
MODEL_FILE = "tokenizer.model"
CHAT_FILE = "chat_template.jinja"
"""How a conversation is written; kept for those who load an export."""
MODEL_KEY = "sentencepiece_model"
"""Key of the configuration that says: encode with this SentencePiece model, not tokenizer.json."""
RUST_PANIC = "PanicException"
"""What a library in Rust raises where it gives up; it is no `Exception`."""
_MODEL_NAMES = (MODEL_FILE, "spiece.model", "sentencepiece.bpe.model", "spm.model")
_VOCABULARIES = ("vocab.txt", "vocab.json", "tekken.json")
_WORD_MARK = "\u2581"


def load_tokenizer(name: str | Path) -> Tokenizer:
    """Loads a tokenizer.

    Args:
      name: a Hugging Face tokenizer directory, a SentencePiece `.model` file, a `tokenizer.json`,
        or a name on the hub (from the local cache if `HF_HUB_OFFLINE` is set).

    Raises:
      UserError: nothing there, or not a tokenizer.
    """
    path, name = Path(name), str(name)
    try:
        if path.is_dir():
            return _tried(_load_directory(path))
        if path.suffix == ".model" and path.is_file():
            return _tried(SentencePieceTokenizer(path.name, path.read_bytes()))
        if path.is_file():
            return _tried(JsonTokenizer(path.name, read_json(path, what=WHAT, fix=FIX), {}))
    except UserError:
        raise
    except BaseException as error:  # the libraries raise bare exceptions for damaged files
        if not isinstance(error, Exception) and type(error).__name__ != RUST_PANIC:
            raise
        raise _unreadable(name, f"{type(error).__name__}: {error}") from error
    if path.suffix or name.startswith((".", "/")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise _unreadable(name, "no such file or directory", suggestion(path))
    if near := suggestion(path):
        raise _unreadable(name, "no such directory, and one of almost this name is there", near)
    print(
        f"{name} is no file or directory here: asking the Hugging Face hub for it", file=sys.stderr
    )
    return _load_with_transformers(name)


def _tried(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer, once it has encoded something: a damaged one may fail only then."""
    tokenizer.encode_batch(["A word, 10 \u00e4\u4e2d\U0001f600."])
    tokenizer.template(False)
    return tokenizer


def stated_length(directory: Path) -> int | None:
    """The longest row, in tokens, that a tokenizer's directory says its model takes."""
    length = read_part(directory / CONFIG_FILE).get("model_max_length")
    if length is None:
        return None
    if not isinstance(length, int | float) or not 1 <= length < math.inf:
        raise UserError(
            "a tokenizer's longest row is no number of tokens",
            where=f"{directory / CONFIG_FILE}, model_max_length",
            expected="a whole number of at least 1, or no such key",
            got=repr(length)[:80],
            fix="correct or remove it",
        )
    return int(length)


def with_tokens(tokenizer: Tokenizer, tokens: Sequence[str], role: str | None = None) -> Tokenizer:
    """The tokenizer with further tokens, whose ids follow the others; each is found in a text
    before that is cut, as it stands. With a `role` it is special, and is found in none.

    Raises:
      UserError: it knows one of them already, or is one of SentencePiece's own.
    """
    if not isinstance(tokenizer, JsonTokenizer):
        raise UserError(
            "tokens cannot be added to this tokenizer",
            where=tokenizer.name,
            expected=f"a tokenizer with {JSON_FILE}",
            got="a SentencePiece model, whose pieces are what it was trained with",
        )
    return tokenizer.with_tokens(tokens, role)


class JsonTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library.

    Args:
      name: what to call it.
      content: `tokenizer.json` as plain values. Padding and truncation in it are dropped.
      config: `tokenizer_config.json`: the tokens of the roles.
    """

    def __init__(self, name: str, content: dict[str, Any], config: Mapping[str, Any]):
        import tokenizers

        content = {**content, "padding": None, "truncation": None}
        text = json.dumps(content, ensure_ascii=False, indent=1)
        self._tokenizer = tokenizers.Tokenizer.from_str(text)
        self._tokenizer.encode_special_tokens = True
        self._json = content
        roles = _roles(config, self._tokenizer.token_to_id, name)
        added = self._tokenizer.get_added_tokens_decoder()
        special = {token.content: id_ for id_, token in added.items() if token.special}
        special |= {
            str(self._tokenizer.id_to_token(id_)): id_
            for role, id_ in roles.items()
            if role != "unk"
        }
        files = {JSON_FILE: text.encode(), CONFIG_FILE: config_file(config)}
        vocab_size = max(self._tokenizer.get_vocab().values()) + 1
        super().__init__(name, files, vocab_size, roles, special)
        self._is_byte_level = '"ByteLevel"' in json.dumps(
            [content.get("pre_tokenizer"), content.get("decoder")]
        )

    def with_tokens(self, tokens: Sequence[str], role: str | None) -> "JsonTokenizer":
        """See the function of this name."""
        import tokenizers

        if blank := [token for token in tokens if not token.strip()]:
            raise UserError(
                "a token to add is blank",
                where=self.name,
                expected="tokens with something to see",
                got=repr(blank[0]),
            )
        known = [token for token in tokens if self._tokenizer.token_to_id(token) is not None]
        if known or len(set(tokens)) < len(tokens):
            raise UserError(
                "a token to add is known already",
                where=self.name,
                expected="tokens that are not in the vocabulary, each once",
                got=", ".join(known or tokens),
            )
        larger = tokenizers.Tokenizer.from_str(json.dumps(self._json))
        if role is None:
            larger.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in tokens])
        else:
            larger.add_special_tokens(list(tokens))
        config = json.loads(self.files[CONFIG_FILE])
        config |= {} if role is None else {f"{role}_token": tokens[0]}
        return JsonTokenizer(self.name, json.loads(larger.to_str()), config)

    def template(self, pair: bool) -> Frame | None:
        encoding = self._tokenizer.encode("a", "b" if pair else None, add_special_tokens=True)
        owners, ids = encoding.sequence_ids, encoding.ids
        if None not in owners or 0 not in owners or (pair and 1 not in owners):
            return None
        first = [i for i, owner in enumerate(owners) if owner == 0]
        last = [i for i, owner in enumerate(owners) if owner == int(pair)]
        between = ids[first[-1] + 1 : last[0]] if pair else []
        return ids[: first[0]], between, ids[last[-1] + 1 :]

    @property
    def mask_strips(self) -> tuple[bool, bool]:
        mask = self.special_ids["mask"]
        added = self._tokenizer.get_added_tokens_decoder().get(-1 if mask is None else mask)
        return (False, False) if added is None else (added.lstrip, added.rstrip)

    def decode(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def token(self, id_: int) -> str | None:
        return self._tokenizer.id_to_token(id_)

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def _encode_spans(self, texts: Sequence[str]) -> list[Encoding]:
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [
            (np.array(e.ids, np.int32), np.array(e.offsets, np.int32).reshape(-1, 2))
            for e in encodings
        ]

    def encode_with_special(self, texts: Sequence[str]) -> list[Encoding]:
        encodings = self._with_special.encode_batch(list(texts), add_special_tokens=False)
        return [
            (np.array(e.ids, np.int32), np.array(e.offsets, np.int32).reshape(-1, 2))
            for e in encodings
        ]

    @functools.cached_property
    def _with_special(self) -> Any:
        """The library's tokenizer, which finds special tokens in texts."""
        import tokenizers

        return tokenizers.Tokenizer.from_str(self.files[JSON_FILE].decode())

    def _content(self) -> Any:
        left_out = ("version", "padding", "truncation", "post_processor", "decoder")
        return {key: value for key, value in self._json.items() if key not in left_out}

    def _has_rules_of(self, other: Tokenizer) -> bool:
        if not isinstance(other, JsonTokenizer):
            return False
        (own, merges), (rules, more) = _rules(self._content()), _rules(other._content())
        return own == rules and more[: len(merges)] == merges

    def _starts_word(self, token: str) -> bool:
        model = self._json["model"]
        if model.get("type") == "WordPiece" or model.get("continuing_subword_prefix"):
            return not token.startswith(model.get("continuing_subword_prefix") or "##")
        if self._is_byte_level:
            # Spaces, newlines and tabs are written as the letters at U+0100 + their byte.
            byte = ord(token[0]) - 0x100 if token else 0
            return is_word_start(chr(byte) if 0 <= byte <= 0x20 else token)
        return is_word_start(token.replace(_WORD_MARK, " "))


class SentencePieceTokenizer(Tokenizer):
    """A tokenizer that `sentencepiece` runs.

    Args:
      name: what to call it.
      model: the content of its `.model` file.
      config: the tokens of the roles; None to find them in the model: by their usual names, and
        with cls and sep the same as bos and eos if it has none of its own (as XLM-R does).
      files: further files of its directory.
    """

    def __init__(
        self,
        name: str,
        model: bytes,
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
    ):
        import sentencepiece

        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._model = model
        size = self._processor.vocab_size()
        config = _model_roles(self._processor) if config is None else config
        roles = _roles(config, self._find, name)
        pieces = range(size)
        special = {
            self._processor.id_to_piece(i): i for i in pieces if self._processor.is_control(i)
        }
        special |= {
            self._processor.id_to_piece(id_): id_ for role, id_ in roles.items() if role != "unk"
        }
        config = {**config, MODEL_KEY: MODEL_FILE}
        own = {MODEL_FILE: model, CONFIG_FILE: config_file(config)}
        super().__init__(name, {**(files or {}), **own}, size, roles, special)

    def decode(self, ids: Iterable[int]) -> str:
        text, run = [], []
        for id_ in [*map(int, ids), None]:
            if id_ is not None and not self._forbidden[id_]:
                run.append(id_)
                continue
            text += [self._processor.decode(run)] if run else []
            text += [self.token(id_) or ""] if id_ is not None else []
            run = []
        return "".join(text)

    def token(self, id_: int) -> str | None:
        return self._processor.id_to_piece(id_)

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        # As arrays: lists of Python's integers cost as much again as the encoding.
        return self._processor.encode(list(texts), num_threads=1, return_type="numpy")

    def _encode_spans(self, texts: Sequence[str]) -> list[Encoding]:
        found = self._processor.encode(list(texts), return_type="offset_mapping", num_threads=1)
        return [
            (np.array(row["ids"], np.int32), _completed(text, row))
            for text, row in zip(texts, found)
        ]

    def _content(self) -> Any:
        import hashlib

        return hashlib.sha256(self._model).hexdigest()

    def _has_rules_of(self, other: Tokenizer) -> bool:
        is_model = isinstance(other, SentencePieceTokenizer)
        return is_model and differ_in_control_pieces(self._model, other._model)

    def _starts_word(self, token: str) -> bool:
        return is_word_start(token.replace(_WORD_MARK, " "))

    def _find(self, token: str) -> int | None:
        id_ = self._processor.piece_to_id(token)
        return id_ if self._processor.id_to_piece(id_) == token else None


def _rules(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    """What `tokenizer.json` says besides its pieces, and the merges that make them, in order."""
    model = {key: x for key, x in content["model"].items() if key not in ("vocab", "merges")}
    merges = content["model"].get("merges") or []
    pairs = [tuple(x.split(" ")) if isinstance(x, str) else tuple(x) for x in merges]
    rest = {key: x for key, x in content.items() if key not in ("model", "added_tokens")}
    return {**rest, "model": model}, pairs


def _completed(text: str, found: Mapping[str, Any]) -> np.ndarray:
    """The characters that SentencePiece's pieces span, int32 [n, 2].

    Of a character that becomes several pieces (the "\ufb01" ligature, or bytes) the last piece has
    it all, and those before it span nothing, or the space before it; here each spans it. The mark
    alone does span nothing where no space was.
    """
    spans = np.array(found["offsets"], np.int32).reshape(-1, 2)
    pieces = found["pieces"]
    lengths = np.array([len(piece) for piece in pieces], np.int32)
    for i in np.flatnonzero(np.diff(spans, axis=1)[:, 0] < lengths):
        start, end = spans[i]
        if not text[start:end].strip() and pieces[i].replace(_WORD_MARK, " ").strip():
            spans[i] = end, end + 1
    return spans


def config_file(config: Mapping[str, Any]) -> bytes:
    """`tokenizer_config.json` with the tokens of the roles."""
    content: dict[str, Any] = {f"{role}_token": None for role in ROLES}
    content |= {key: _token(config.get(key)) for key in content}
    content |= {key: config[key] for key in (MODEL_KEY, "chat_template") if key in config}
    # This class reads tokenizer.json as it is; those of single models build their own from parts.
    content |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()


def _load_directory(path: Path) -> Tokenizer:
    config = read_part(path / CONFIG_FILE)
    if model := config.get(MODEL_KEY):
        files = {f.name: f.read_bytes() for f in [path / JSON_FILE] if f.is_file()}
        file = inside(path, str(model), what=WHAT, fix=FIX)
        return SentencePieceTokenizer(path.name, file.read_bytes(), config, files)
    content = read_part(path / JSON_FILE)
    if content and is_plain(path, config, content):
        if (path / CHAT_FILE).is_file():
            config["chat_template"] = (path / CHAT_FILE).read_text(encoding="utf-8")
        return JsonTokenizer(path.name, content, config)
    models = [path / name for name in _MODEL_NAMES if (path / name).is_file()]
    if models and not is_hugging_face(path):
        return SentencePieceTokenizer(path.name, models[0].read_bytes())
    if not models and not any((path / name).is_file() for name in (JSON_FILE, *_VOCABULARIES)):
        found = "a directory without any of them"  # transformers would make an empty one, unasked
        raise _unreadable(str(path), found)
    return _load_with_transformers(str(path), path.name)


def _load_with_transformers(name: str, called: str | None = None) -> Tokenizer:
    """A tokenizer whose files need the knowledge in `transformers`, or the hub."""
    try:
        content, config = with_transformers.read(name)
    except Exception as error:  # a long list of them, from OSError to bare ones
        message = str(error).strip().splitlines() or [type(error).__name__]
        fix = suggestion(name)
        if "auto_map" in read_part(Path(name) / CONFIG_FILE):
            fix = (
                f"code of its own is not run: if {JSON_FILE} says all, delete auto_map from "
                f"{CONFIG_FILE}"
            )
        raise _unreadable(name, message[0], fix) from error
    if known := with_transformers.stated_tokens(Path(name)):
        _roles(config, {token: 0 for token in known}.get, name)  # it would add what is mistyped
    return JsonTokenizer(called or name, content, config)


def _roles(config: Mapping[str, Any], find, name: str) -> dict[str, int]:
    """The id of each role that `config` names a token for."""
    roles = {}
    for role in ROLES:
        token = _token(config.get(f"{role}_token"))
        if token is None:
            continue
        if (id_ := find(token)) is None:
            raise UserError(
                f"the tokenizer's {role} token is not in its vocabulary",
                where=name,
                expected=f"{token!r} in the vocabulary",
                got=f"{role}_token = {token!r}",
                fix=f"correct {CONFIG_FILE}",
            )
        roles[role] = id_
    return roles


def _token(value: Any) -> str | None:
    """A special token's string: the files write it as such, or as a mapping with more about it."""
    value = value.get("content") if isinstance(value, Mapping) else value
    return None if value is None else str(value)


def _model_roles(processor: Any) -> dict[str, str | None]:
    """The tokens of the roles, found in a SentencePiece model."""
    size = processor.vocab_size()
    pieces = {processor.id_to_piece(i) for i in range(size)}
    ids = {role: getattr(processor, f"{role}_id")() for role in ("pad", "unk", "bos", "eos")}
    found = {role: processor.id_to_piece(id_) for role, id_ in ids.items() if id_ >= 0}
    for role, other in (("cls", "bos"), ("sep", "eos"), ("mask", None)):
        names = [f"[{role.upper()}]", f"<{role}>"]
        found[role] = next((n for n in names if n in pieces), found.get(other or ""))
    return {f"{role}_token": found.get(role) for role in ROLES}


def _unreadable(name: str, got: str, fix: str | None = None) -> UserError:
    return UserError(
        "a tokenizer cannot be loaded",
        where=name,
        expected="a tokenizer directory, a .model file, a tokenizer.json or a name on the hub",
        got=got,
        fix=fix
        or "check the path; train one with `jaxssl tokenizer`; a hub name needs a network once",
    )

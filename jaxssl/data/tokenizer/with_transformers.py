"""Tokenizers of Hugging Face directories, as `transformers` makes them of their files.

The files may contradict each other, and what holds then is what the library's classes make of them:
`do_lower_case` beside a normalizer, tokens that `tokenizer.json` does not have, `add_prefix_space`.
"""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from jaxssl.core.files import sha256
from jaxssl.core.json_files import read_json
from jaxssl.data.store.manifest import ROLES
from jaxssl.data.tokenizer.tokenizer import CONFIG_FILE

WHAT = "a tokenizer's file is damaged"
FIX = "copy or download the tokenizer again"
PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Those that take tokenizer.json as it is."""
PLAIN_KEYS = {
    *(f"{role}_token" for role in ROLES),
    *("tokenizer_class", "chat_template", "clean_up_tokenization_spaces"),
    *("model_input_names", "model_max_length", "backend"),
}
"""What tokenizer_config.json may say without changing what tokenizer.json says."""
FURTHER_FILES = ("special_tokens_map.json", "added_tokens.json")
FILES = (
    *("tokenizer.json", CONFIG_FILE, *FURTHER_FILES),
    *("vocab.txt", "vocab.json", "merges.txt", "tekken.json", "*.model"),
)
"""What a tokenizer is made of."""


def is_plain(directory: Path, config: dict[str, Any], content: dict[str, Any]) -> bool:
    """Whether a directory's tokenizer.json says all that there is to say, as in those that are
    written here: no class of a model and no second file stands beside it.

    Args:
      config: tokenizer_config.json.
      content: tokenizer.json.
    """
    named = [config[f"{role}_token"] for role in ROLES if config.get(f"{role}_token")]
    there = [token["content"] for token in content.get("added_tokens", ())]
    return (
        config.get("tokenizer_class") in PLAIN_CLASSES
        and config.keys() <= PLAIN_KEYS
        and all(token in there for token in named)  # not where more than its string is said of it
        and not any((directory / name).is_file() for name in FURTHER_FILES)
    )


def is_hugging_face(directory: Path) -> bool:
    """Whether there is anything for `transformers` to go by beside a SentencePiece model."""
    known = (CONFIG_FILE, "tokenizer.json", "config.json", *FURTHER_FILES)
    return any((directory / name).is_file() for name in known)


def stated_tokens(directory: Path) -> set[str]:
    """All tokens that the files of a directory with a tokenizer.json give an id or list as
    further ones; nothing of other directories. `transformers` adds a role's token that is not among
    them, whose row no model has."""
    if not (directory / "tokenizer.json").is_file():
        return set()
    names = ("tokenizer.json", CONFIG_FILE, *FURTHER_FILES)
    content, config, mapped, added = (read_part(directory / name) for name in names)
    listed = [*content.get("added_tokens", ()), *config.get("added_tokens_decoder", {}).values()]
    for source in (config, mapped):
        for name in ("additional_special_tokens", "extra_special_tokens"):
            further = source.get(name) or ()
            listed += further.values() if isinstance(further, dict) else further
    vocabulary = content["model"]["vocab"]  # {piece: id}, or [[piece, score], ...]
    pieces = vocabulary if isinstance(vocabulary, dict) else (piece for piece, _ in vocabulary)
    return {*pieces, *added, *(x["content"] if isinstance(x, dict) else x for x in listed)}


def files_checksum(directory: Path) -> str | None:
    """SHA-256 of the files that make the tokenizer of a directory; None without any."""
    names = {name for pattern in FILES for name in directory.glob(pattern)}
    listed = [[file.name, sha256(file)] for file in sorted(names)]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest() if listed else None


def read_part(path: Path) -> dict[str, Any]:
    """The content of a tokenizer's file; nothing where there is none.

    Raises:
      UserError: it is no JSON object.
    """
    return read_json(path, what=WHAT, fix=FIX) if os.path.lexists(path) else {}


def library() -> Any:
    """The module `transformers`, without its advice to install PyTorch."""
    told = os.environ.get("TRANSFORMERS_NO_ADVISORY_WARNINGS")
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
    try:
        import transformers
    finally:
        if told is None:
            del os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"]
    return transformers


def read(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """`tokenizer.json` and the tokens of the roles, of a directory or a model of the hub.

    Raises:
      Exception: of many kinds, from OSError to bare ones.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs each of many retries
    loaded = library().AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    config = {f"{role}_token": getattr(loaded, f"{role}_token", None) for role in ROLES}
    if template := getattr(loaded, "chat_template", None):
        config["chat_template"] = template
    return json.loads(loaded.backend_tokenizer.to_str()), config

"""What a sentence-transformers directory says of a text's vector, read and written.

`modules.json` lists what a text goes through: the transformer, a pooling, perhaps a normalisation.
Keys and defaults are those of sentence-transformers 6, which reads the files of older ones.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.json_files import read_json
from jaxssl.ops.pooling import Pooling

DAMAGED = "a file of sentence-transformers is damaged"
MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"
TRANSFORMER = "sentence_bert_config.json"
TRANSFORMER_FILES = (
    TRANSFORMER,
    *(f"sentence_{kind}_config.json" for kind in ("roberta", "distilbert", "camembert", "albert")),
    *(f"sentence_{kind}_config.json" for kind in ("xlm-roberta", "xlnet")),
)
"""Its older names; the first that is there counts."""
MODES: Mapping[str, Pooling] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weightedmean",
    "lasttoken": "last",
}
"""Their names of poolings and ours, in the order in which older files concatenate them."""
FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""How older files name them."""
TYPE = "sentence_transformers.models."
"""What all versions find their modules under."""
TEXT = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
IGNORED = ("max_seq_length", "do_lower_case", "unpad_inputs")
REMOVE = f"to import the transformer alone, without what follows it, delete {MODULES}"


@dataclass(frozen=True, kw_only=True)
class SentenceConfig:
    """How a sentence-transformers model makes a vector of a text."""

    pooling: tuple[Pooling, ...]
    """What stands for a text; several are concatenated."""
    normalize: bool = False
    """Whether vectors have length 1."""
    max_length: int = 512
    """Most tokens of a text, special ones included."""
    lowercase: bool = False
    """Whether texts are lower-cased before the tokenizer sees them."""
    prompts: dict[str, str] = field(default_factory=dict)
    """What may come before a text, by name."""
    default_prompt: str | None = None
    """The name of the prompt that comes before every text, unless another is asked for."""
    similarity: str | None = None
    """How its vectors are compared: kept for an export."""

    def __post_init__(self):
        check_at_least(1, self, "max_length")


# --- Reading ------------------------------------------------------------------------------------


def transformer_of(path: Path) -> Path:
    """The directory of the weights: `path`, or the folder that its modules.json names.

    Raises:
      UserError: a module that is not built here.
    """
    return path / _modules(path)[0]["path"] if (path / MODULES).is_file() else path


@dataclass(frozen=True)
class _Transformer:
    """What is read of the transformer's file."""

    max_seq_length: int | None = None
    do_lower_case: bool | None = None


@dataclass(frozen=True)
class _Pooling:
    """What is read of the pooling's file besides its flags."""

    pooling_mode: str | list[str] | None = None


@dataclass(frozen=True)
class _Shared:
    """What is read of the file that stands for all modules."""

    model_type: str | None = None
    prompts: dict[str, str] | None = None
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None


def module_folders(path: Path) -> list[str]:
    """The folders inside a directory that its modules lie in."""
    modules = _modules(path) if (path / MODULES).is_file() else []
    return [module["path"] for module in modules if module["path"]]


def read_sentence(
    path: Path, hidden_size: int, max_positions: int, tokenizer_length: int | None
) -> SentenceConfig | None:
    """What a directory says of a text's vector; None where it says nothing.

    Args:
      hidden_size: of the model.
      max_positions: of the model; no text may be longer.
      tokenizer_length: `model_max_length` of tokenizer_config.json, which counts where the
        directory states no length of its own.

    Raises:
      UserError: names what is not built here.
    """
    if not (path / MODULES).is_file():
        return None
    modules = _modules(path)
    if len(modules) == 1:
        return None  # a classifier, say: it has no vector of a text
    transformer, pooling, *rest = modules
    given = _read_transformer(path / transformer["path"])
    length = given.get("max_seq_length") or min(tokenizer_length or max_positions, max_positions)
    for module in rest:
        _check_normalize(path / module["path"])
    prompts, default = _read_prompts(path / PROMPTS)
    return SentenceConfig(
        pooling=_read_pooling(path / pooling["path"] / "config.json", hidden_size),
        normalize=bool(rest),
        max_length=min(int(length), max_positions),
        lowercase=bool(given.get("do_lower_case")),
        prompts=prompts,
        default_prompt=default,
        similarity=_read(path / PROMPTS, _Shared).similarity_fn_name,
    )


def _modules(path: Path) -> list[dict[str, str]]:
    """The modules, in order: a transformer, perhaps a pooling, perhaps a normalisation."""
    file = path / MODULES
    listed: Any = _read(file, list)
    try:
        modules = [{"type": str(each["type"]), "path": str(each["path"])} for each in listed]
    except (KeyError, TypeError) as error:
        raise _damaged(file, f"{type(error).__name__}: {error}") from error
    wanted = ("Transformer", "Pooling", "Normalize")
    for number, module in enumerate(modules):
        kind = module["type"].rpartition(".")[2]
        is_theirs = module["type"].startswith("sentence_transformers.")
        if not is_theirs or number >= len(wanted) or kind != wanted[number]:
            raise UserError(
                "a module of sentence-transformers that is not built here",
                where=f"{file}, module {number}",
                expected="Transformer, then Pooling, then at most Normalize, of its own classes",
                got=module["type"],
                fix=REMOVE,
            )
        if Path(module["path"]).is_absolute() or ".." in Path(module["path"]).parts:
            raise _damaged(file, f"a path that leads out of the directory: {module['path']}")
    if not modules:
        raise _damaged(file, "no module")
    return modules


def _read_transformer(folder: Path) -> dict[str, Any]:
    """What the transformer's file says besides `config.json`."""
    there = [folder / name for name in TRANSFORMER_FILES if (folder / name).is_file()]
    file = there[0] if there else folder / TRANSFORMER_FILES[0]
    given = {**_read(file), **asdict(_read(file, _Transformer))}
    built = {
        "transformer_task": "feature-extraction",
        "modality_config": TEXT,
        "module_output_name": "token_embeddings",
    }
    for name, value in given.items():
        if name not in IGNORED and value not in (None, {}, [], False, built.get(name)):
            raise _not_built(file, name, built.get(name, "nothing"), value)
    return given


def _read_pooling(file: Path, hidden_size: int) -> tuple[Pooling, ...]:
    """What stands for a text, in the order of its vector."""
    given, stated = _read(file), _read(file, _Pooling).pooling_mode
    known = {*FLAGS.values(), "pooling_mode", "include_prompt"}
    sizes = {"word_embedding_dimension", "embedding_dimension"}
    for name, value in given.items():
        if name not in known | sizes and value:
            raise _not_built(file, name, ", ".join(sorted(known)), value)
        if name in sizes and value != hidden_size:
            raise _not_built(file, name, f"{hidden_size}, the model's hidden_size", value)
    if not given.get("include_prompt", True):
        raise _not_built(file, "include_prompt", "true", "false")
    if stated is None:
        stated = [mode for mode, flag in FLAGS.items() if given.get(flag)] or ["mean"]
    modes = [stated] if isinstance(stated, str) else list(stated)
    for mode in modes:
        if mode not in MODES:
            raise _not_built(file, "pooling_mode", ", ".join(MODES), mode)
    return tuple(MODES[mode] for mode in modes)


def _read_prompts(file: Path) -> tuple[dict[str, str], str | None]:
    """What may come before a text, by name, and the name of what comes before every text."""
    given = _read(file, _Shared)
    kind = given.model_type or "SentenceTransformer"
    if kind != "SentenceTransformer":
        raise _not_built(file, "model_type", "SentenceTransformer", kind)
    prompts, default = given.prompts or {}, given.default_prompt_name
    if default is not None and default not in prompts:
        raise _damaged(file, f"default_prompt_name={default!r}, which is not among its prompts")
    there = {name: text for name, text in prompts.items() if text}
    return there, default if default in there else None


def _check_normalize(folder: Path) -> None:
    for name, value in _read(folder / "config.json").items():
        if value != "sentence_embedding":
            raise _not_built(folder / "config.json", name, "sentence_embedding", value)


def _not_built(file: Path, name: str, expected: object, got: object) -> UserError:
    return UserError(
        "a setting of sentence-transformers that is not built here",
        where=f"{file}, {name}",
        expected=expected,
        got=got,
        fix=REMOVE,
    )


def _damaged(file: Path, got: str) -> UserError:
    return UserError(DAMAGED, where=file, got=got)


def _read(file: Path, kind: type = dict) -> Any:
    """A JSON file's content; nothing where there is none."""
    if not os.path.lexists(file):
        return kind()
    return read_json(file, kind, what=DAMAGED, fix="copy or download the directory again")


# --- Writing ------------------------------------------------------------------------------------


def write_sentence(directory: Path, sentence: SentenceConfig, hidden_size: int) -> None:
    """Writes the files that make a sentence-transformers directory of a Hugging Face one."""
    kinds = ["Transformer", "Pooling", *["Normalize"] * sentence.normalize]
    folders = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds) if number)]
    modules = [
        {"idx": number, "name": str(number), "path": folder, "type": TYPE + kind}
        for number, (kind, folder) in enumerate(zip(kinds, folders))
    ]
    _write(directory / MODULES, modules)
    shared = {
        "model_type": "SentenceTransformer",
        "prompts": sentence.prompts,
        "default_prompt_name": sentence.default_prompt,
        "similarity_fn_name": sentence.similarity,
    }
    _write(directory / PROMPTS, {key: x for key, x in shared.items() if x is not None})
    lengths = {"max_seq_length": sentence.max_length, "do_lower_case": sentence.lowercase}
    _write(directory / TRANSFORMER, lengths)
    _write(directory / folders[1] / "config.json", _pooling(sentence.pooling, hidden_size))
    for folder in folders[2:]:
        _write(directory / folder / "config.json", {"module_input_name": "sentence_embedding"})


def _pooling(poolings: Sequence[Pooling], hidden_size: int) -> dict[str, Any]:
    """As all versions read it; in the newest one's words where older ones have none."""
    chosen = {MODES[mode]: mode for mode in MODES}
    modes = [chosen[how] for how in poolings]
    if modes == [mode for mode in MODES if mode in modes]:
        flags = {flag: mode in modes for mode, flag in FLAGS.items()}
        return {"word_embedding_dimension": hidden_size, **flags, "include_prompt": True}
    return {"embedding_dimension": hidden_size, "pooling_mode": modes, "include_prompt": True}


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

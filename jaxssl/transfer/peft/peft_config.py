"""`adapter_config.json`, as PEFT writes it: which of its fields are read, and what they say of a
module."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxssl.core.errors import UserError
from jaxssl.core.json_files import JsonObject, read_json
from jaxssl.transfer.peft import virtual
from jaxssl.transfer.peft.files import CONFIG
from jaxssl.transfer.peft.rows import ALONE, FIELD, FIELD_ALONE

PLAIN = (True, False, "gaussian", "orthogonal", "eva")
"""Initialisations that leave the model's own parameters as they are."""
AGAIN = ("pissa", "olora")
"""Those that take from the model what can be computed again: no basis of its parts is the only one,
but the product of the two matrices is. Randomised ones (`pissa_niter_4`) are not among them."""
UNREAD = {
    "lora_bias": False,
    "layer_replication": None,
    "target_parameters": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "kasa_config": None,
    "use_bdlora": None,
    "use_qalora": False,
}
"""Fields that say of an adapter what is not built here, with the value that says nothing."""
KNOWN = (
    *("peft_type", "task_type", "peft_version", "auto_mapping", "base_model_name_or_path"),
    *("revision", "inference_mode", "r", "lora_alpha", "lora_dropout", "bias", "use_rslora"),
    *("use_dora", "init_lora_weights", "init_ia3_weights", "fan_in_fan_out", "target_modules"),
    *("exclude_modules", "feedforward_modules", "modules_to_save", "layers_to_transform"),
    *("layers_pattern", "rank_pattern", "alpha_pattern", "megatron_config", "megatron_core"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config"),
    *("monteclora_config", "runtime_config", "qalora_group_size", "ensure_weight_tying"),
    *("trainable_token_indices", "num_virtual_tokens", "token_dim", "num_transformer_submodules"),
    *("num_attention_heads", "num_layers", "prompt_tuning_init", "prompt_tuning_init_text"),
    *("tokenizer_name_or_path", "tokenizer_kwargs", "encoder_reparameterization_type"),
    *("encoder_hidden_size", "encoder_num_layers", "encoder_dropout", "prefix_projection"),
    *("init_weights", FIELD_ALONE),
)
"""Fields that are read, or that say how an adapter was trained. Of others it is not known what they
say of what it computes."""
VIRTUAL = (*virtual.PROMPTS, *virtual.PREFIXES)
KINDS = ("LORA", "IA3", ALONE, *VIRTUAL)
"""What PEFT calls the methods."""


def _is_whole(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _is_number(x: Any) -> bool:
    return _is_whole(x) or isinstance(x, float) and math.isfinite(x)


def _is_names(x: Any) -> bool:
    is_list = isinstance(x, list) and all(isinstance(each, str) for each in x)
    return x is None or isinstance(x, str) or is_list


def _is_ids(x: Any) -> bool:
    return isinstance(x, list) and all(_is_whole(each) and each >= 0 for each in x)


def _is_pattern(x: Any, is_value: Callable[[Any], bool]) -> bool:
    return x is None or isinstance(x, dict) and all(map(is_value, x.values()))


def _is_rank(x: Any) -> bool:
    return _is_whole(x) and x >= 1


RANK, NUMBER = (_is_rank, "1 or more"), (_is_number, "a number")
NAMES = (_is_names, "names of modules, a pattern or null")
YES_OR_NO = (lambda x: isinstance(x, bool) or x is None, "true or false")
VALUES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("r", "num_virtual_tokens"), RANK),
    "lora_alpha": NUMBER,
    "lora_dropout": (lambda x: _is_number(x) and 0 <= x < 1, "0 or more, below 1"),
    "rank_pattern": (lambda x: _is_pattern(x, _is_rank), "{pattern: rank}"),
    "alpha_pattern": (lambda x: _is_pattern(x, _is_number), "{pattern: alpha}"),
    **dict.fromkeys(("target_modules", "exclude_modules", "feedforward_modules"), NAMES),
    "modules_to_save": NAMES,
    "layers_to_transform": (
        lambda x: x is None or _is_whole(x) or _is_ids(x),
        "numbers of layers, or null",
    ),
    FIELD_ALONE: (_is_ids, "ids of tokens"),
    FIELD: (
        lambda x: x is None or _is_ids(x) or isinstance(x, dict) and all(map(_is_ids, x.values())),
        "ids of tokens, by table where there are several",
    ),
    **dict.fromkeys(("use_rslora", "use_dora", "fan_in_fan_out"), YES_OR_NO),
}
"""What fields that are read may be."""


def read_config(path: Path) -> dict[str, Any]:
    """`adapter_config.json`. Raises UserError: another method's, or of what is not here."""
    what, fix = "an adapter's file is damaged", "copy it again"
    given: dict[str, Any] = read_json(path / CONFIG, JsonObject, what=what, fix=fix)
    kind = given.get("peft_type")
    if kind not in KINDS:
        raise not_here(path, "peft_type", ", ".join(KINDS), kind)
    if given.get("bias", "none") not in ("none", "all", "lora_only"):
        raise not_here(path, "bias", "none, all or lora_only", given["bias"])
    for field, value in given.items():
        if field not in KNOWN and value not in (None, False, [], {}):
            raise not_here(path, field, UNREAD.get(field, "fields that are known"), value)
        is_good, expected = VALUES.get(field, (lambda _: True, ""))
        if not is_good(value):
            raise UserError(
                "an adapter's file has a value that its field cannot have",
                where=f"{path / CONFIG}, {field}",
                expected=expected,
                got=repr(value),
                fix=fix,
            )
    start = given.get("init_lora_weights", True)
    is_simple = not given.get("use_dora") and given.get("bias", "none") == "none"
    if start not in PLAIN and not (start in AGAIN and is_simple):
        raise UserError(
            "the adapter is one of a model whose own parameters were changed when it began",
            where=path / CONFIG,
            expected="init_lora_weights of true, gaussian, orthogonal or eva; pissa or olora, "
            "without DoRA and biases",
            got=start,
            fix="save it as plain LoRA: save_pretrained(OUT, "
            "path_initial_model_for_weight_conversion=...) of PEFT",
        )
    return given


def not_here(path: Path, field: str, expected: Any, got: Any) -> UserError:
    """An error that a field of the file says something that is not built here."""
    return UserError(
        "an adapter of PEFT's with what is not built here",
        where=f"{path / CONFIG}, {field}",
        expected=expected,
        got=got,
        fix="merge it where peft is installed (merge_and_unload, save_pretrained), and import that",
    )


def is_meant(given: Mapping[str, Any], name: str) -> bool:
    """Whether a config says that PEFT changes the module of this name there."""

    def is_among(field: str) -> bool:
        found = given.get(field) or ()
        if isinstance(found, str):
            return re.fullmatch(found, name) is not None
        return any(f".{name}".endswith(f".{each}") for each in found)

    layers = given.get("layers_to_transform")
    if layers is not None and not isinstance(given.get("target_modules"), str):
        number = re.match(r".*?\.[^.]*\.(\d+)\.", name)
        chosen = [layers] if isinstance(layers, int) else layers
        if number is None or (chosen and int(number[1]) not in chosen):
            return False
    return is_among("target_modules") and not is_among("exclude_modules")


def alpha_of(given: Mapping[str, Any], name: str) -> float:
    """The alpha of a module there, by the first of PEFT's patterns that fits."""
    return float(_fitting(given, "alpha_pattern", name, given.get("lora_alpha", 8)))


def check_meant(path: Path, given: Mapping[str, Any], name: str, rank: int) -> None:
    """Refuses tensors of a module there that the fields leave out, or give another rank."""
    named = isinstance(given.get("target_modules"), list) and not given.get("layers_pattern")
    said = _fitting(given, "rank_pattern", name, given.get("r", 8))
    if said == rank and (not named or is_meant(given, name)):
        return
    raise UserError(
        "an adapter's two files contradict each other",
        where=f"{path / CONFIG}, {'r, rank_pattern' if said != rank else 'target_modules'}",
        expected=f"{name} of rank {rank}, as its tensors are",
        got=f"rank {said}" if said != rank else f"fields that leave {name} out",
        fix="take both files of one adapter",
    )


def _fitting(given: Mapping[str, Any], field: str, name: str, usual: Any) -> Any:
    """The value of the first of PEFT's patterns that fits a module there."""
    patterns = (given.get(field) or {}).items()
    fitting = (value for key, value in patterns if re.fullmatch(rf"(.*\.)?({key})", name))
    return next(fitting, usual)

"""What PEFT's configuration of an adapter may say."""

import json
from typing import Any

import pytest

from jaxssl.core.errors import UserError
from jaxssl.transfer.peft.peft_config import check_meant, read_config
from jaxssl.transfer.peft.reading import read_adapter

LORA = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "target_modules": ["query", "value"],
    "modules_to_save": None,
    "rank_pattern": {"layer.1.attention.self.query": 4},
    "alpha_pattern": {},
    "layers_to_transform": None,
}
QUERY = "encoder.layer.0.attention.self.query"


def write(path, **changes):
    (path / "adapter_config.json").write_text(json.dumps({**LORA, **changes}))
    return path


def test_what_peft_writes_is_read(tmp_path):
    assert read_config(write(tmp_path)) == LORA
    changes = {"target_modules": "all-linear", "layers_to_transform": 1, "lora_alpha": 0.5}
    assert read_config(write(tmp_path, **changes)) == {**LORA, **changes}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("r", x) for x in ("eight", 0, 8.5, None, True)),
        *(("lora_alpha", x) for x in (None, "16", float("nan"))),
        *(("lora_dropout", x) for x in ("x", 2.0, -0.1)),
        *(("rank_pattern", x) for x in ([1], {"query": 0})),
        *(("alpha_pattern", x) for x in ({"query": "x"}, 3)),
        *(("target_modules", x) for x in (7, [1])),
        *(("modules_to_save", x) for x in (3, {"a": 1})),
        *(("layers_to_transform", x) for x in ("1", [-1], [0.5])),
        *(("use_dora", x) for x in ("yes", 1)),
        ("num_virtual_tokens", "many"),
        ("trainable_token_indices", {"embed_tokens": "3"}),
        ("token_indices", [1.5]),
    ],
)
def test_a_value_that_its_field_cannot_have_is_told(field, value, tmp_path):
    with pytest.raises(UserError, match="a value that its field cannot have") as caught:
        read_config(write(tmp_path, **{field: value}))
    assert str(caught.value.where).endswith(f"adapter_config.json, {field}")


def test_tensors_that_the_fields_leave_out_or_give_another_rank_are_told(tmp_path):
    check_meant(tmp_path, LORA, QUERY, 8)
    check_meant(tmp_path, LORA, QUERY.replace("0", "1"), 4)
    check_meant(tmp_path, {**LORA, "target_modules": "all-linear"}, QUERY, 8)
    for given, name, rank, got in (
        (LORA, QUERY, 4, "rank 8"),
        (LORA, QUERY.replace("query", "key"), 8, "leave"),
        ({**LORA, "layers_to_transform": [1]}, QUERY, 8, "leave"),
    ):
        with pytest.raises(UserError, match="contradict each other") as caught:
            check_meant(tmp_path, given, name, rank)
        assert got in str(caught.value.got)


def test_a_pickled_adapter_and_one_that_is_not_there_are_told_apart(tmp_path):
    base: Any = None  # is not looked at
    with pytest.raises(UserError, match="file is not there") as caught:
        read_adapter(write(tmp_path), base)
    assert caught.value.got == "none"
    (tmp_path / "adapter_model.bin").touch()
    with pytest.raises(UserError, match="file is not there") as caught:
        read_adapter(tmp_path, base)
    assert "pickled" in str(caught.value.got) and "save it again" in str(caught.value.fix)

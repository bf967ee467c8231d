"""What sentence-transformers' files say, and what of it is refused."""

import json
import shutil

import pytest

from jaxssl.checkpoint.hf.sentence import (
    FLAGS,
    MODES,
    SentenceConfig,
    module_folders,
    read_sentence,
    transformer_of,
    write_sentence,
)
from jaxssl.core.errors import UserError

WIDTH = 24


@pytest.fixture
def directory(tmp_path):
    write_sentence(tmp_path, SentenceConfig(pooling=("mean",), normalize=True), WIDTH)
    return tmp_path


def change(file, **changes):
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**content, **changes}))


def read(path, positions=512, length=None):
    return read_sentence(path, WIDTH, positions, length)


@pytest.mark.parametrize(
    "sentence",
    [
        SentenceConfig(pooling=("mean",)),
        SentenceConfig(pooling=("cls", "max", "mean"), normalize=True, max_length=128),
        SentenceConfig(pooling=("last", "cls", "last"), lowercase=True, similarity="dot"),
        SentenceConfig(pooling=("weightedmean",), prompts={"a": "b: "}, default_prompt="a"),
    ],
)
def test_what_is_written_is_read(sentence, tmp_path):
    write_sentence(tmp_path, sentence, WIDTH)
    assert read(tmp_path) == sentence


def test_a_directory_without_modules_or_without_a_pooling_says_nothing(tmp_path, directory):
    modules = json.loads((directory / "modules.json").read_text())
    (directory / "modules.json").write_text(json.dumps(modules[:1]))
    assert read(directory) is None
    (directory / "modules.json").unlink()
    assert read(directory) is None and transformer_of(directory) == directory


@pytest.mark.parametrize("mode", MODES)
def test_poolings_have_the_names_of_old_and_new_files(mode, directory):
    file = directory / "1_Pooling" / "config.json"
    file.write_text(json.dumps({"word_embedding_dimension": WIDTH, FLAGS[mode]: True}))
    assert read(directory).pooling == (MODES[mode],)
    file.write_text(json.dumps({"embedding_dimension": WIDTH, "pooling_mode": mode}))
    assert read(directory).pooling == (MODES[mode],)


def test_no_pooling_that_is_named_is_the_mean(directory):
    (directory / "1_Pooling" / "config.json").write_text("{}")
    assert read(directory).pooling == ("mean",)


def test_a_length_that_is_not_stated_is_the_tokenizers_or_the_models(directory):
    change(directory / "sentence_bert_config.json", max_seq_length=None)
    assert read(directory, 512, 384).max_length == 384
    assert read(directory, 512, 10**30).max_length == 512
    change(directory / "sentence_bert_config.json", max_seq_length=514)  # RoBERTa's, with padding
    assert read(directory, 512, 384).max_length == 512
    (directory / "sentence_bert_config.json").unlink()
    assert read(directory, 512, 384).max_length == 384


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("1_Pooling/config.json", {"pooling_mode": 5}),
        ("1_Pooling/config.json", {"pooling_mode": [["mean"]]}),
        ("config_sentence_transformers.json", {"prompts": ["a"]}),
        ("config_sentence_transformers.json", {"prompts": {"a": 3}}),
        ("config_sentence_transformers.json", {"similarity_fn_name": {}}),
        ("sentence_bert_config.json", {"max_seq_length": [1]}),
        ("sentence_bert_config.json", {"do_lower_case": "no"}),
    ],
)
def test_a_value_of_another_type_is_damage(file, changes, directory):
    change(directory / file, **changes)
    with pytest.raises(UserError, match="is damaged") as raised:
        read(directory)
    assert file in str(raised.value)


def test_older_names_and_folders_are_read(directory):
    (directory / "0_Transformer").mkdir()
    shutil.move(
        directory / "sentence_bert_config.json",
        directory / "0_Transformer" / "sentence_roberta_config.json",
    )
    change(directory / "0_Transformer" / "sentence_roberta_config.json", max_seq_length=77)
    modules = json.loads((directory / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    modules[1]["type"] = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    (directory / "modules.json").write_text(json.dumps(modules))
    assert read(directory).max_length == 77
    assert transformer_of(directory) == directory / "0_Transformer"
    assert module_folders(directory) == ["0_Transformer", "1_Pooling", "2_Normalize"]


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("sentence_transformers.models.Dense", 2),
        ("sentence_transformers.models.LayerNorm", 3),
        ("sentence_transformers.models.WordEmbeddings", 0),
        ("modeling_own.Pooling", 1),
    ],
)
def test_a_module_that_is_not_built_is_refused_by_name(kind, number, directory):
    modules = json.loads((directory / "modules.json").read_text())
    modules.insert(number, {"idx": number, "name": "x", "path": "x", "type": kind})
    (directory / "modules.json").write_text(json.dumps(modules))
    for look in (read, transformer_of, module_folders):
        with pytest.raises(UserError, match=rf"(?s)module {number}.*{kind}"):
            look(directory)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "median"]}, "median"),
        ("1_Pooling/config.json", {"pooling_mode_attention": True}, "pooling_mode_attention"),
        ("1_Pooling/config.json", {"word_embedding_dimension": 768}, "24, the model's"),
        ("2_Normalize/config.json", {"module_input_name": "token_embeddings"}, "token_emb"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task"),
        ("sentence_bert_config.json", {"query_length": 32}, "query_length"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "SparseEncoder"),
        ("config_sentence_transformers.json", {"default_prompt_name": "x"}, "default_prompt_name"),
        ("modules.json", None, "damaged"),
    ],
)
def test_a_setting_that_is_not_built_is_refused_by_name(name, changes, message, directory):
    if changes is None:
        (directory / name).write_text("{}")
    else:
        change(directory / name, **changes)
    with pytest.raises(UserError, match=message):
        read(directory)


def test_a_module_outside_the_directory_is_refused(directory):
    text = (directory / "modules.json").read_text()
    (directory / "modules.json").write_text(text.replace("1_Pooling", "../1_Pooling"))
    with pytest.raises(UserError, match="leads out of"):
        read(directory)

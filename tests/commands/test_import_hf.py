"""Hugging Face directories as run directories."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import toy
import tuned
from huggingface_hub.utils import filter_repo_objects
from safetensors.numpy import load_file, save_file

from jaxssl import cli
from jaxssl.checkpoint.hf.sentence import SentenceConfig, write_sentence
from jaxssl.commands import export, import_hf, predict
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.data.tokenizer.loading import load_tokenizer, with_tokens
from jaxssl.run.open import evaluate_run, fill_masks, open_run, split_read
from jaxssl.run.train import train_run

TEXTS = ["the old man sees a [MASK] near a river"]


@pytest.fixture(scope="module")
def exported(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "base"
    export.export(base, out)
    return out


@pytest.fixture(scope="module")
def imported(exported, tmp_path_factory):
    out, said = tmp_path_factory.mktemp("imported") / "run", []
    import_hf.import_model(exported, out, say=said.append)
    return out, said


def test_it_fills_masks_as_the_run_it_was_exported_from(base, imported):
    assert fill_masks(imported[0], TEXTS) == fill_masks(base, TEXTS)


def test_a_special_token_in_a_text_is_said_to_be_read_as_text(imported, capsys):
    fill_masks(imported[0], TEXTS)
    assert "note" not in capsys.readouterr().err
    fill_masks(imported[0], ["the [SEP] old man sees a [MASK]"])
    assert "note: [SEP] in a text is read as these characters" in capsys.readouterr().err


def test_its_parameters_have_the_bits_of_the_run_and_all_are_told(base, imported):
    out, said = imported
    before, after = tuned.whole(base), tuned.whole(out)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert np.array_equal(value, after[name]), name
    ledger = json.loads((out / "ledger.json").read_text())
    assert {entry["target"] for entry in ledger["parameters"]} == before.keys()
    for part in ("embeddings", "encoder", "masked_lm", "next_sentence", "pooler"):
        assert any(f"restored  {part}" in line for line in said), part


def test_to_import_and_use_a_model_needs_no_torch(exported, tmp_path):
    code = (
        "import sys; from jaxssl import fill_masks; from jaxssl.commands import import_hf;"
        "import_hf.import_model(sys.argv[1], sys.argv[2]);"
        "assert fill_masks(sys.argv[2], ['a [MASK]']);"
        "assert 'torch' not in sys.modules"
    )
    places = [exported, tmp_path / "run"]
    done = subprocess.run([sys.executable, "-c", code, *places], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_starts_from_it(imported, table, tmp_path):
    config = tuned.configured(imported[0], table, tmp_path / "run", "train.epochs=1")
    assert "accuracy" in train_run(config, lambda text: None).validation


def test_parameters_take_the_dtype_that_is_told(exported, imported, tmp_path):
    out = import_hf.import_model(exported, tmp_path / "run", dtype="bfloat16", say=print)
    wide = tuned.whole(imported[0])
    for name, value in flatten(open_run(out).params).items():
        assert str(value.dtype) == "bfloat16"
        np.testing.assert_allclose(np.asarray(value, np.float32), wide[name], rtol=2**-8)
    with pytest.raises(UserError, match="float32 or bfloat16"):
        import_hf.import_model(exported, tmp_path / "other", dtype="float16")
    assert not (tmp_path / "other").exists()


def test_tensors_that_have_no_place_are_an_error_unless_they_are_dropped(exported, tmp_path):
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in exported.iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    tensors = {**load_file(changed / "model.safetensors"), "bert.adapter": np.ones(3, np.float32)}
    save_file(tensors, changed / "model.safetensors")
    with pytest.raises(UserError, match="adapter"):
        import_hf.import_model(changed, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    import_hf.import_model(changed, tmp_path / "run", drop=["adapter"])
    assert fill_masks(tmp_path / "run", TEXTS)


def test_a_language_model_is_evaluated_on_a_store_as_the_run_it_was(byte_store, tmp_path):
    config = toy.configured(byte_store, tmp_path / "gpt", "gpt2", "train.steps=6")
    train_run(config, lambda text: None)
    export.export(tmp_path / "gpt", tmp_path / "exported")
    import_hf.import_model(tmp_path / "exported", tmp_path / "run", say=list)
    before = evaluate_run(tmp_path / "gpt")
    sizes = ["data.max_length=16", "data.batch_size=8"]
    after = evaluate_run(tmp_path / "run", store=str(byte_store), layers=sizes)
    assert {**after, "step": before["step"]} == before
    with pytest.raises(UserError, match="max_length"):
        evaluate_run(tmp_path / "run", store=str(byte_store), layers=["data.max_length=99"])


@pytest.fixture(scope="module")
def again(classifier, tmp_path_factory):
    """The run that the exported classifier was imported as."""
    root = tmp_path_factory.mktemp("again")
    export.export(classifier, root / "exported")
    return import_hf.import_model(root / "exported", root / "run", say=list)


def test_a_classifier_predicts_as_the_run_it_was(classifier, again, table, tmp_path):
    said = []
    for run_dir, name in zip((classifier, again), ("before.jsonl", "after.jsonl")):
        predict.predict(run_dir, [str(table)], str(tmp_path / name))
        rows = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        said.append(rows)
    assert [row["label"] for row in said[0]] == [row["label"] for row in said[1]]
    for before, after in zip(*said, strict=True):
        assert before["probabilities"] == pytest.approx(after["probabilities"], abs=1e-6)


def test_a_classifier_is_evaluated_on_a_table_that_is_named(again, table, tmp_path):
    predict.predict(again, [str(table)], str(tmp_path / "said.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    right = np.mean([row["label"] == row["input_label"] for row in rows])
    values = evaluate_run(again, layers=[f"data.table.path={table}"])
    assert values["rows"] == len(rows) and values["accuracy"] == pytest.approx(right)
    with pytest.raises(UserError, match=r"table\.path=FILE"):
        evaluate_run(again)


def test_an_imported_model_has_no_splits_and_none_is_told(again, table, byte_store, capsys):
    """Every split was the whole of the table, and was told under the name that was given."""
    given = ["evaluate", str(again), "--with", f"data.table.path={table}"]
    assert cli.main(given) == 0
    head = capsys.readouterr().out.splitlines()[0]
    assert head == f"{again}: step 0, 90 rows"
    assert cli.main([*given, "--split", "test"]) == 2
    err = capsys.readouterr().err
    assert "no splits" in err and "--split" in err and "data.table.path=FILE" in err
    assert split_read(again) is None
    assert split_read(again, store=str(byte_store)) == "validation"
    assert split_read(again, store=str(byte_store), split="train") == "train"


def test_a_classifier_is_exported_again_with_the_same_bits(again, tmp_path):
    name = export.export(again, tmp_path / "again")
    assert name == "BertForSequenceClassification"
    there, here = (
        load_file(d / "model.safetensors") for d in (again.parent / "exported", tmp_path / "again")
    )
    assert there.keys() == here.keys()
    assert all(np.array_equal(there[key], here[key]) for key in there)


def test_vocabulary_and_positions_grow_and_what_was_there_stays(exported, imported, tmp_path):
    out = tmp_path / "run"
    import_hf.import_model(
        exported,
        out,
        tokens=["<sql>", "</sql>"],
        pad_vocab_to=64,
        layers=["model.max_positions=40"],
        say=list,
    )
    before, after = tuned.whole(imported[0]), tuned.whole(out)
    larger = open_run(out)
    size = open_run(imported[0]).tokenizer.vocab_size
    assert larger.tokenizer.vocab_size == size + 2
    assert larger.model.config.vocab_size % 64 == 0 and larger.model.config.max_positions == 40
    ids = larger.tokenizer.encode_batch(["the cat<sql>"])[0]
    assert ids[-1] == size
    resized = {"embeddings/tokens/embedding", "embeddings/positions/embedding", "masked_lm/bias"}
    for name, value in before.items():
        assert np.array_equal(after[name][: len(value)], value), name
        assert (len(after[name]) > len(value)) == (name in resized), name
    entries = json.loads((out / "ledger.json").read_text())["parameters"]
    assert {e["target"] for e in entries if e["action"] == "resized"} == resized
    assert fill_masks(out, TEXTS)


def test_tokens_that_are_known_and_multiples_of_nothing_are_refused(exported, tmp_path):
    for changes in ({"tokens": ["[MASK]"]}, {"tokens": ["<a>", "<a>"]}, {"pad_vocab_to": 0}):
        with pytest.raises(UserError, match="known already|multiple"):
            import_hf.import_model(exported, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(exported, tmp_path):
    changed = shutil.copytree(exported, tmp_path / "changed")
    with_tokens(load_tokenizer(exported), [f"<{i}>" for i in range(99)]).save(changed)
    with pytest.raises(
        UserError, match="smaller than the tokenizer's.*\n.*\n.*\n.*\n.*pad-vocab-to"
    ):
        import_hf.import_model(changed, tmp_path / "run")
    with pytest.raises(UserError, match=r"model\.vocab_size"):
        import_hf.import_model(exported, tmp_path / "run", layers=["model.vocab_size=9"])
    assert not (tmp_path / "run").exists()
    import_hf.import_model(changed, tmp_path / "run", pad_vocab_to=8, say=list)
    assert fill_masks(tmp_path / "run", TEXTS)


def test_a_tokenizer_that_is_not_there_or_not_the_models_is_refused(exported, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare").mkdir(exist_ok=True)
        shutil.copyfile(exported / name, tmp_path / "bare" / name)
    with pytest.raises(UserError, match="a tokenizer cannot be loaded"):
        import_hf.import_model(tmp_path / "bare", tmp_path / "run", say=print)
    toy.train_toy_tokenizer("byte_bpe", 400).save(tmp_path / "bare")
    content = json.loads((tmp_path / "bare" / "config.json").read_text())
    assert content["vocab_size"] < 400
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"}
    few = {"model": model, "added_tokens": []}
    (tmp_path / "bare" / "tokenizer.json").write_text(json.dumps(few))
    roles = {"unk_token": "[UNK]", "tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "bare" / "tokenizer_config.json").write_text(json.dumps(roles))
    with pytest.raises(UserError, match=r"(?s)far fewer tokens.*got:      2 in"):
        import_hf.import_model(tmp_path / "bare", tmp_path / "run", say=print)
    assert not (tmp_path / "run").exists()


def test_rows_without_a_token_are_told(exported, tmp_path):
    said = []
    changes = {"pad_vocab_to": 64, "layers": ["model.max_positions=40"]}
    import_hf.import_model(exported, tmp_path / "run", say=said.append, **changes)
    assert any("rows of the vocabulary have no token" in line for line in said)


def test_a_save_that_fails_leaves_nothing(exported, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(import_hf, "_save", fail)
    with pytest.raises(OSError, match="no space"):
        import_hf.import_model(exported, tmp_path / "run", say=list)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="already"):
        import_hf.import_model(exported, tmp_path, say=list)


def test_a_run_gets_its_name_when_all_of_it_is_there(exported, tmp_path, monkeypatch):
    """So one that is killed half-way can be repeated."""
    out, save, seen = tmp_path / "run", import_hf._save, []

    def watch(config, model, start, run_dir, beside):
        save(config, model, start, run_dir, beside)
        seen.append((run_dir.parent, (run_dir / "checkpoints" / "0").is_dir(), out.exists()))

    monkeypatch.setattr(import_hf, "_save", watch)
    import_hf.import_model(exported, out, say=list)
    assert seen == [(tmp_path, True, False)]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert json.loads((out / "run.json").read_text())["config"]["out"] == str(out)
    assert fill_masks(out, TEXTS)


def test_a_model_of_the_hub_with_pickled_weights_alone_is_told_how_to_be_converted(
    tmp_path, monkeypatch
):
    fetched = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *a, **b: fetched.append(b) or str(tmp_path)
    )
    names = ["config.json", "pytorch_model.bin"]
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name: names)
    with pytest.raises(UserError, match="save_pretrained"):
        import_hf.find_source("someone/old")
    assert "*.bin" not in fetched[0]["allow_patterns"]
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert import_hf.find_source("someone/old") == tmp_path


def test_the_folders_of_a_sentence_models_modules_are_fetched_too(tmp_path, monkeypatch):
    write_sentence(tmp_path, SentenceConfig(pooling=("cls",), normalize=True), 8)
    (tmp_path / "model.safetensors").write_bytes(b"")
    fetched = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *a, **b: fetched.append(b) or str(tmp_path)
    )
    assert import_hf.find_source("someone/sentences") == tmp_path
    top, inside = fetched
    names = ["modules.json", "1_Pooling/config.json", "2_Normalize/config.json", "onnx/a.json"]
    taken = {
        *filter_repo_objects(names, **top),
        *filter_repo_objects(names, **inside),
    }
    assert taken == set(names[:3])


def test_a_model_without_a_language_model_head_is_sent_to_embed(again):
    with pytest.raises(UserError, match="jaxssl embed"):
        fill_masks(again, TEXTS)


def test_the_command_says_what_is_wrong(exported, imported, tmp_path, capsys):
    assert cli.main(["import", str(tmp_path / "none"), str(tmp_path / "run")]) == 2
    assert "no such directory" in capsys.readouterr().err
    assert cli.main(["evaluate", str(imported[0])]) == 2
    assert "--store" in capsys.readouterr().err
    assert cli.main(["predict", str(imported[0]), "--input", "x.csv", "--output", "y.csv"]) == 2
    assert "cannot predict" in capsys.readouterr().err
    assert cli.main(["inspect", str(imported[0]), "--verify"]) == 0
    assert f"imported from {exported}" in capsys.readouterr().out
    assert cli.main(["export", str(imported[0]), str(tmp_path / "again")]) == 0
    there, here = (load_file(d / "model.safetensors") for d in (exported, tmp_path / "again"))
    assert there.keys() == here.keys()
    assert all(np.array_equal(there[name], here[name]) for name in there)

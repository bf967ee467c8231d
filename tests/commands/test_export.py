"""Runs as Hugging Face directories, loaded by `transformers`, which is asked the same."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exported directories are loaded with torch")

import hf_models  # noqa: E402
import toy  # noqa: E402
import transformers  # noqa: E402
import tuned  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

from jaxssl.commands import export, import_hf, predict  # noqa: E402
from jaxssl.core.errors import UserError  # noqa: E402
from jaxssl.data.tokenizer.export import write_tokenizer  # noqa: E402
from jaxssl.run.open import evaluate_run, open_run  # noqa: E402
from jaxssl.run.train import train_run  # noqa: E402

TEXTS = ["the old man sees a bird near a river", "a dog", "my sister sees a bird in the garden"]


@pytest.fixture(scope="module")
def exported(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "base"
    assert export.export(base, out) == "BertForPreTraining"
    return out


def test_transformers_loads_a_pretrained_run_and_gives_its_logits(base, exported):
    ours = open_run(base)
    theirs = transformers.AutoModelForPreTraining.from_pretrained(exported).eval()
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, ours.tokenizer.vocab_size, (2, 12)).astype(np.int32)
    rows = {
        "tokens": tokens,
        "segment_ids": np.ones_like(tokens),
        "positions": np.broadcast_to(np.arange(12, dtype=np.int32), tokens.shape),
    }
    hidden = ours.model.encode(ours.params, rows)
    with torch.no_grad():
        out = theirs(torch.tensor(tokens).long())
    pairs = (
        (ours.model.head(ours.params, "masked_lm", hidden), out.prediction_logits),
        (
            ours.model.head(ours.params, "next_sentence", ours.model.pool(ours.params, hidden)),
            out.seq_relationship_logits,
        ),
    )
    for mine, yours in pairs:
        np.testing.assert_allclose(mine, yours.numpy(), rtol=1e-4, atol=2e-5)


def test_the_exported_tokenizer_makes_the_same_tokens(base, exported):
    ours = open_run(base).tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(exported)
    for text, ids in zip(TEXTS, ours.encode_batch(TEXTS)):
        assert theirs.encode(text, add_special_tokens=False) == ids.tolist()
        cls, sep = ours.special_ids["cls"], ours.special_ids["sep"]
        assert theirs.encode(text) == [cls, *ids.tolist(), sep]


def test_an_imported_discriminator_is_exported_with_its_head(tmp_path):
    tokenizer = toy.train_toy_tokenizer("wordpiece", 120)
    theirs = hf_models.reference("electra", "ForPreTraining", vocab_size=tokenizer.vocab_size)
    there = hf_models.save(theirs, tmp_path / "theirs")
    write_tokenizer(tokenizer, there, frames=True, has_types=True, max_length=32)
    import_hf.import_model(there, tmp_path / "run", say=lambda text: None)
    assert export.check(tmp_path / "run") == "ElectraForPreTraining"
    assert export.export(tmp_path / "run", tmp_path / "ours") == "ElectraForPreTraining"
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "ours", there))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(value, theirs[name]) for name, value in ours.items())


def test_the_card_tells_what_the_model_was_made_of(base, table, classifier, tmp_path):
    export.export(classifier, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    accuracy = json.loads((classifier / "scores.json").read_text())["splits"]["validation"]
    for line in (
        f"| data | {table} |",
        f"| started from | {base} |",
        f"| validation | accuracy | {accuracy['scores']['accuracy']:.4f} |",
    ):
        assert line in card


def test_a_pipeline_of_transformers_says_what_predict_says(classifier, tmp_path):
    out = tmp_path / "exported"
    assert export.export(classifier, out) == "BertForSequenceClassification"
    pipeline = transformers.pipeline("text-classification", model=str(out), top_k=None)
    file = tmp_path / "texts.csv"
    file.write_text("text\n" + "\n".join(TEXTS) + "\n")
    predict.predict(classifier, [str(file)], str(tmp_path / "said.jsonl"))
    ours = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    for mine, yours in zip(ours, pipeline(TEXTS), strict=True):
        assert mine["label"] == yours[0]["label"]
        probabilities = {each["label"]: each["score"] for each in yours}
        for label, probability in mine["probabilities"].items():
            assert probability == pytest.approx(probabilities[label], abs=1e-5)


def test_fine_tuning_starts_from_an_exported_directory_as_from_the_run(
    base, exported, table, tmp_path
):
    outcomes = []
    for name, start in (("run", base), ("directory", exported)):
        config = tuned.configured(start, table, tmp_path / name, "train.epochs=1")
        outcomes.append(train_run(config, lambda text: None).validation)
    assert outcomes[0] == outcomes[1]
    evaluated = evaluate_run(tmp_path / "directory")
    assert evaluated["loss"] == pytest.approx(outcomes[1]["loss"], rel=1e-6)


def test_an_exported_classifier_goes_on_where_its_head_is_named(classifier, table, tmp_path):
    export.export(classifier, tmp_path / "exported")
    config = tuned.configured(
        tmp_path / "exported",
        table,
        tmp_path / "run",
        "train.epochs=1",
        "task.pooling=cls",
        "optimizer.learning_rate=0",
        'init.rename={"row/**": "classify/**"}',
    )
    train_run(config, lambda text: None)
    before, after = tuned.whole(classifier, "best"), tuned.whole(tmp_path / "run")
    assert before.keys() == after.keys() and "classify/output/kernel" in after
    for name, value in before.items():
        assert np.array_equal(value, after[name]), name


def test_a_directory_that_has_changed_is_not_the_base(exported, table, tmp_path):
    moved = tmp_path / "base"
    moved.mkdir()
    for file in exported.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    config = tuned.configured(
        moved, table, tmp_path / "run", "train.epochs=1", "freezing.preset=head"
    )
    train_run(config, lambda text: None)
    file = moved / "tokenizer_config.json"
    text = file.read_text()
    file.write_text(text.replace('"[MASK]"', '"[UNK]"'))
    with pytest.raises(UserError, match="the tokenizer of the base is not the one"):
        open_run(tmp_path / "run")
    file.write_text(text)
    open_run(tmp_path / "run")
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match="not the base"):
        open_run(tmp_path / "run")


def test_what_no_class_of_transformers_does_is_refused_and_leaves_nothing(base, table, tmp_path):
    config = tuned.configured(base, table, tmp_path / "run", "train.epochs=1")
    train_run(config, lambda text: None)  # the mean of all tokens
    with pytest.raises(UserError, match=r"task\.pooling=cls"):
        export.check(tmp_path / "run")
    assert export.check(base, tmp_path / "free", "float16") == "BertForPreTraining"
    with pytest.raises(UserError, match="dtype"):
        export.check(base, dtype="float8")
    with pytest.raises(UserError, match="something here already"):
        export.check(base, tmp_path)
    with pytest.raises(UserError, match=r"task\.pooling=cls"):
        export.export(tmp_path / "run", tmp_path / "out")
    with pytest.raises(UserError, match="already"):
        export.export(base, tmp_path)
    assert not list(tmp_path.glob("*out*"))

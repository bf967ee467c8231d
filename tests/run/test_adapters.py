"""Runs with adapters: what is trained and kept, going on, merging, and PEFT's files."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import tiny
import toy
import tuned

from jaxssl.commands.export import export
from jaxssl.commands.import_hf import import_model
from jaxssl.commands.merge import merge
from jaxssl.commands.predict import predict
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.run import open as runs
from jaxssl.run.open import evaluate_run
from jaxssl.run.train import train_run
from jaxssl.transfer.peft.prompt import Prompt

QUIET = lambda text: None  # noqa: E731


@pytest.fixture(scope="module")
def run(base, table, tmp_path_factory):
    """A BERT fine-tuned by LoRA in all its projections; nine steps an epoch."""
    out = tmp_path_factory.mktemp("adapters") / "run"
    settings = ("peft.name=lora", "peft.targets=[all-linear]", "peft.dropout=0.1")
    train_run(configured(base, table, out, *settings), QUIET)
    return out


def configured(base, table, out, *settings):
    common = ("task.pooling=cls", "train.epochs=2", "checkpoint.every=9")
    return tuned.configured(base, table, out, *settings, *common)


def test_a_checkpoint_holds_what_was_trained_and_the_base_keeps_its_bits(run, base):
    kept = {name for name in toy.restored(run, 18) if name.startswith("['params']")}
    parts = {name.split("']['")[1].rstrip("']") for name in kept}
    assert parts == {"adapters", "classify", "pooler"}
    before, after = tuned.whole(base), tuned.whole(run)
    same = [name for name in before if name.startswith(("encoder/", "embeddings/"))]
    assert len(same) == 21 and all(np.array_equal(before[n], after[n]) for n in same)
    assert any(np.any(x) for name, x in after.items() if name.endswith("default_b"))
    ledger = json.loads((run / "ledger.json").read_text())["parameters"]
    fresh = {entry["target"].split("/")[0] for entry in ledger if entry["action"] == "fresh"}
    assert fresh == {"adapters", "classify"}


def test_cut_off_and_started_again_it_ends_with_the_same_bits(run, base, table, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "18")
    settings = ("peft.name=lora", "peft.targets=[all-linear]", "peft.dropout=0.1")
    train_run(configured(base, table, again, *settings), QUIET)
    toy.assert_same_arrays(toy.restored(again, 18), toy.restored(run, 18))


@pytest.fixture(scope="module")
def merged(run):
    return merge(run, run.parent / "merged", say=QUIET)


def rows_of(run, out):
    texts = ["the cat sees a bird at home", "my sister sees a bird near a river"]
    given = out.with_suffix(".in.jsonl")
    given.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    predict(run, given, out, note=QUIET)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return texts, np.array([list(row["probabilities"].values()) for row in rows])


def test_merged_it_gives_the_same_without_adapters(run, merged, tmp_path):
    before, after = evaluate_run(run), evaluate_run(merged)
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert after[name] == pytest.approx(value, rel=3e-6), name
    assert not [name for name in tuned.whole(merged) if name.startswith("adapters/")]
    _, mine = rows_of(run, tmp_path / "run.jsonl")
    _, again = rows_of(merged, tmp_path / "merged.jsonl")
    np.testing.assert_allclose(mine, again, rtol=0, atol=2e-6)
    export(merged, tmp_path / "hf", say=QUIET)
    assert (tmp_path / "hf" / "config.json").is_file()


def test_peft_on_torch_predicts_the_same_with_the_exported_adapter(run, base, tmp_path):
    torch = pytest.importorskip("torch", reason="the reference is peft on torch")
    peft = pytest.importorskip("peft", reason="the reference is peft on torch")
    import transformers

    export(base, tmp_path / "base", say=QUIET)
    export(run, tmp_path / "adapter", say=QUIET)
    of = transformers.AutoModelForSequenceClassification
    model = of.from_pretrained(tmp_path / "base", num_labels=2)
    wrapped = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "adapter")
    texts, mine = rows_of(run, tmp_path / "rows.jsonl")
    with torch.no_grad():
        logits = wrapped(**tokenizer(texts, return_tensors="pt", padding=True)).logits
    np.testing.assert_allclose(mine, torch.softmax(logits, -1).numpy(), rtol=0, atol=2e-6)

    # And back: with the model that it is for, whose class has the head, it is a run again.
    plain = of.from_pretrained(tmp_path / "base", num_labels=2)
    plain.save_pretrained(tmp_path / "classifier")
    tokenizer.save_pretrained(tmp_path / "classifier")
    import_model(
        tmp_path / "adapter", tmp_path / "imported", base=str(tmp_path / "classifier"), say=QUIET
    )
    _, again = rows_of(tmp_path / "imported", tmp_path / "imported.jsonl")
    np.testing.assert_allclose(mine, again, rtol=0, atol=2e-6)
    merge(tmp_path / "imported", tmp_path / "merged", say=QUIET)
    _, again = rows_of(tmp_path / "merged", tmp_path / "merged.jsonl")
    np.testing.assert_allclose(mine, again, rtol=0, atol=2e-6)


def test_adapters_of_a_run_are_gone_on_with(run, table, tmp_path):
    """They are restored, with the head, from the run that has them."""
    out = tmp_path / "more"
    settings = ("peft.name=lora", "peft.targets=[all-linear]", "train.steps=1", "train.epochs=null")
    config = tuned.configured(run, table, out, *settings, "task.pooling=cls")
    train_run(config, QUIET)
    ledger = json.loads((out / "ledger.json").read_text())["parameters"]
    assert {entry["action"] for entry in ledger} == {"restored"}


@pytest.mark.parametrize("more", [(), ("freezing.preset=top", "freezing.top=1")])
def test_lengths_of_dora_begin_as_those_of_the_base(more, base, table, tmp_path):
    """After a step that moves nothing to speak of; also where the top layer is another segment."""
    settings = ("peft.name=lora", "peft.magnitude=true", "train.steps=1", "train.epochs=null")
    still = ("optimizer.learning_rate=1e-12", "optimizer.schedule.warmup=0")
    train_run(tuned.configured(base, table, tmp_path / "run", *settings, *still, *more), QUIET)
    before, after = tuned.whole(base), tuned.whole(tmp_path / "run")
    for name in ("query", "value"):
        path = f"encoder/layers/attention/{name}"
        want = np.sqrt(np.sum(np.square(before[f"{path}/kernel"]), axis=1))
        np.testing.assert_allclose(after[f"adapters/{path}/default_m"], want, rtol=1e-6)


def test_a_run_that_is_opened_has_the_prefix_that_its_projection_gives(
    base, table, tmp_path, monkeypatch
):
    settings = ("peft.name=prefix", "peft.projection_size=16", "peft.length=3")
    few = ("train.steps=3", "train.epochs=null", "checkpoint.every=3")
    train_run(tuned.configured(base, table, tmp_path / "run", *settings, *few), QUIET)
    held = {name for name in toy.restored(tmp_path / "run", 3) if "adapters" in name}
    assert any("inner_kernel" in name for name in held)
    opened, values = runs.open_run(tmp_path / "run"), evaluate_run(tmp_path / "run")
    own = flatten(opened.params["adapters"])
    assert {name.rsplit("/")[-1] for name in own} == {"default_key", "default_value"}
    assert opened.config.peft["default"].projection_size is None
    monkeypatch.setattr(runs, "folded_model", lambda model: model)
    as_trained = evaluate_run(tmp_path / "run")
    assert "default_table" in str(runs.open_run(tmp_path / "run").params["adapters"])
    for name, value in as_trained.items():
        assert values[name] == pytest.approx(value, rel=3e-6), name


def test_virtual_tokens_begin_as_those_of_a_text_and_are_before_every_text(base, table, tmp_path):
    text = "my sister sees a cat"
    settings = ("peft.name=prompt", "peft.length=7", "peft.initialization=text")
    given = (*settings, f"peft.initial_text={text}", "train.steps=1", "train.epochs=null")
    still = ("optimizer.learning_rate=1e-12", "optimizer.schedule.warmup=0", "task.pooling=cls")
    run = tmp_path / "run"
    train_run(tuned.configured(base, table, run, *given, *still), QUIET)
    opened = runs.open_run(run)
    (ids,) = opened.tokenizer.encode_batch([text])
    assert len(ids) == 5
    wanted = opened.params["embeddings"]["tokens"]["embedding"][np.resize(ids, 7)]
    prompt = opened.params["adapters"]["embeddings"]["default_prompt"]
    np.testing.assert_allclose(prompt, wanted, rtol=1e-6)
    # As a model without adapters reads a row with these tokens before [CLS].
    texts, mine = rows_of(run, tmp_path / "rows.jsonl")
    plain = dataclasses.replace(opened.model, adapters=())
    for row, text in zip(mine, texts):
        (body,) = opened.tokenizer.encode_batch([text])
        before, _, after = opened.tokenizer.frame(pair=False)
        batch = tiny.rows([[np.concatenate([np.resize(ids, 7), before, body, after])]])
        states = plain.encode(opened.params, batch)[:, 7:]
        logits = plain.head(opened.params, "classify", plain.pool(opened.params, states))
        np.testing.assert_allclose(row, jax.nn.softmax(logits)[0], rtol=0, atol=2e-6)
    with pytest.raises(UserError, match="what prompt adds is nothing"):
        merge(run, tmp_path / "merged", say=QUIET)
    with pytest.raises(UserError, match="with the tokens of adapters before it"):
        evaluate_run(run, layers=["data.max_length=60"])


def test_virtual_tokens_begin_as_ordinary_tokens_that_are_drawn(base):
    tokenizer = runs.open_run(base).tokenizer
    drawn = Prompt(length=20, initialization="vocabulary").prepared(tokenizer).initial_ids
    other = Prompt(length=20, initialization="vocabulary", seed=1).prepared(tokenizer).initial_ids
    assert len({*drawn}) == 20 and drawn != other
    assert not {*drawn} & {*tokenizer.special_ids.values()}
    with pytest.raises(UserError, match="no tokens"):
        Prompt(initialization="text", initial_text=" ").prepared(tokenizer)


@pytest.mark.parametrize(
    ("settings", "what", "where"),
    [
        (("peft.name=lora", "peft.targets=[qery]"), "a target is nowhere", "peft.default"),
        (("peft.name=ia3", "peft.inputs=[gate]"), "a target is nowhere", "peft.default"),
        (("peft.two_words.name=lora",), "not a name of an adapter", "peft"),
        (
            ("peft.name=bottleneck", "peft.after=[cross_attention]"),
            "nothing that bottleneck changes",
            "peft.default",
        ),
        (
            ("peft.name=prefix", "peft.where=[decoder,cross_attention]"),
            "nothing that prefix changes",
            "peft.default",
        ),
        (("peft.name=prompt", "peft.length=32"), "no position for a text", "peft, length"),
        (("peft.name=prompt", "peft.length=10"), "with the tokens of adapters", "data.max_length"),
        (("peft.name=lora", "init.scratch=true"), "starts from nothing", "peft, init.from"),
        (("peft.name=adalora",), "", "peft"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(settings, what, where, base, table, tmp_path):
    with pytest.raises(UserError) as caught:
        train_run(configured(base, table, tmp_path / "run", *settings), QUIET)
    error = caught.value
    assert what in error.what and str(error.where).startswith(where), error
    if "qery" in str(settings):
        assert error.fix and "query" in error.fix


def test_a_run_without_adapters_cannot_be_merged_and_adapters_are_not_cast(run, base, tmp_path):
    with pytest.raises(UserError, match="no adapters"):
        merge(base, tmp_path / "merged")
    with pytest.raises(UserError, match="adapters are written as they were trained"):
        export(run, tmp_path / "adapter", dtype="bfloat16")
    assert not list(tmp_path.iterdir())

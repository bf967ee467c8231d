"""Runs with adapters: what is trained and kept, going on, merging, and PEFT's files."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
import tiny
import toy
import tuned
import yaml

from jaxssl.commands.export import export
from jaxssl.commands.import_hf import import_model
from jaxssl.commands.merge import merge
from jaxssl.commands.predict import predict
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.data.tokenizer.loading import load_tokenizer, with_tokens
from jaxssl.run import open as runs
from jaxssl.run import parameters
from jaxssl.run.build import build
from jaxssl.run.open import evaluate_run
from jaxssl.run.train import frozen_new_rows, train_run
from jaxssl.transfer.peft.prompt import Prompt
from jaxssl.transfer.peft.tokens import Tokens

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


def test_a_prefix_goes_to_peft_and_comes_back(base, table, tmp_path):
    torch = pytest.importorskip("torch", reason="the reference is peft on torch")
    peft = pytest.importorskip("peft", reason="the reference is peft on torch")
    import transformers

    prefix = ("peft.name=prefix", "peft.length=3", "peft.takes_positions=true")
    rate = ("optimizer.learning_rate=1e-2", "train.epochs=1", "checkpoint.every=9")
    run, room = tmp_path / "run", ("task.pooling=cls", "data.max_length=13")
    train_run(tuned.configured(base, table, run, *prefix, *rate, *room), QUIET)
    export(base, tmp_path / "base", say=QUIET)
    export(run, tmp_path / "adapter", say=QUIET)
    of = transformers.AutoModelForSequenceClassification
    plain = of.from_pretrained(tmp_path / "base", num_labels=2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "adapter")
    for each in (plain, tokenizer):
        each.save_pretrained(tmp_path / "classifier")
    wrapped = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    texts, mine = rows_of(run, tmp_path / "rows.jsonl")
    with torch.no_grad():
        logits = wrapped(**tokenizer(texts, return_tensors="pt", padding=True)).logits
    np.testing.assert_allclose(mine, torch.softmax(logits, -1).numpy(), rtol=0, atol=2e-6)
    classifier = str(tmp_path / "classifier")
    import_model(tmp_path / "adapter", tmp_path / "imported", base=classifier, say=QUIET)
    _, again = rows_of(tmp_path / "imported", tmp_path / "imported.jsonl")
    np.testing.assert_allclose(mine, again, rtol=0, atol=2e-6)

    out, adapter = tmp_path / "more", f"peft.given.from={tmp_path / 'adapter'}"
    settings = (adapter, "peft.given.frozen=true", *rate, *room)
    train_run(tuned.configured(tmp_path / "base", table, out, *settings), QUIET)
    before, after = tuned.whole(run), tuned.whole(out)
    for name in ("key", "value"):
        path = f"adapters/encoder/layers/attention/{{}}_{name}"
        np.testing.assert_array_equal(before[path.format("default")], after[path.format("given")])


def test_rows_of_new_tokens_go_to_peft_and_come_back(base, table, tmp_path):
    """A tokenizer with one more token, whose row is trained with all others beside LoRA."""
    torch = pytest.importorskip("torch", reason="the reference is peft on torch")
    peft = pytest.importorskip("peft", reason="the reference is peft on torch")
    import transformers

    larger = with_tokens(load_tokenizer(str(base / "tokenizer")), ["a bird"])
    larger.save(tmp_path / "larger")
    size, run = larger.vocab_size, tmp_path / "run"
    grown = (f"tokenizer={tmp_path / 'larger'}", "init.new_pieces=mean", f"model.vocab_size={size}")
    settings = ("peft.name=lora", 'freezing.train=["embeddings/tokens/embedding"]', *grown)
    once = ("train.epochs=1", "checkpoint.every=9", "task.pooling=cls")
    train_run(tuned.configured(base, table, run, *settings, *once), QUIET)
    told = []
    export(base, tmp_path / "base", say=QUIET)
    export(run, tmp_path / "adapter", say=told.append)
    assert any(f"resize_token_embeddings({size})" in line for line in told)
    of = transformers.AutoModelForSequenceClassification
    plain = of.from_pretrained(tmp_path / "base", num_labels=2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "adapter")
    plain.save_pretrained(tmp_path / "classifier")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "base").save_pretrained(
        tmp_path / "classifier"
    )
    plain.resize_token_embeddings(size)
    wrapped = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    texts, mine = rows_of(run, tmp_path / "rows.jsonl")
    given = tokenizer(texts, return_tensors="pt", padding=True)
    assert (given["input_ids"] == size - 1).any(1).all()
    with torch.no_grad():
        logits = wrapped(**given).logits
    np.testing.assert_allclose(mine, torch.softmax(logits, -1).numpy(), rtol=0, atol=2e-6)
    classifier = str(tmp_path / "classifier")
    import_model(tmp_path / "adapter", tmp_path / "imported", base=classifier, say=QUIET)
    _, again = rows_of(tmp_path / "imported", tmp_path / "imported.jsonl")
    np.testing.assert_allclose(mine, again, rtol=0, atol=2e-6)

    # What is imported knows its base, too, and is written as it came.
    export(tmp_path / "imported", tmp_path / "once more", say=QUIET)
    weights = [tmp_path / name / "adapter_model.safetensors" for name in ("adapter", "once more")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def peft_of(warning):
    """The adapters' names in the setting that a warning gives, as it may be pasted."""
    (given,) = re.findall(r"'peft=(.*?)'", warning)
    return [*yaml.safe_load(given)]


def test_new_rows_that_stay_frozen_beside_an_adapter_are_told(base, table, tmp_path):
    with_tokens(load_tokenizer(str(base / "tokenizer")), ["a bird", "a dog"]).save(tmp_path / "two")
    size = load_tokenizer(str(tmp_path / "two")).vocab_size
    grown = (f"tokenizer={tmp_path / 'two'}", "init.new_pieces=mean", f"model.vocab_size={size}")

    def warned(*settings):
        config = tuned.configured(base, table, tmp_path / "run", "peft.name=lora", *settings)
        return frozen_new_rows(build(config).work.program)

    (line,) = warned(*grown)
    assert "its rows for new tokens" in line and "freezing.train=[embeddings/tokens/" in line
    assert not warned(*grown, 'freezing.train=["embeddings/tokens/embedding"]')
    assert not warned()

    def beside(tokens):
        peft = f"peft={{own: {{name: lora}}, new: {{name: tokens, tokens: [{tokens}]}}}}"
        config = tuned.configured(base, table, tmp_path / "run", peft, *grown)
        return frozen_new_rows(build(config).work.program)

    assert not beside("a bird, a dog")
    (line,) = beside("a bird")
    assert "of which 1 stay as they begin" in line and peft_of(line) == ["own", "new"]


def test_rows_of_tokens_are_trained_alone_and_go_to_peft_beside_an_adapter(base, table, tmp_path):
    torch = pytest.importorskip("torch", reason="the reference is peft on torch")
    peft = pytest.importorskip("peft", reason="the reference is peft on torch")
    import transformers

    larger = with_tokens(load_tokenizer(str(base / "tokenizer")), ["a bird"])
    larger.save(tmp_path / "larger")
    size, run = larger.vocab_size, tmp_path / "run"
    grown = (f"tokenizer={tmp_path / 'larger'}", "init.new_pieces=mean", f"model.vocab_size={size}")
    settings = ["peft.default.name=lora", "peft.new.name=tokens", "peft.new.tokens=[a bird, cat]"]
    once = ("train.epochs=1", "checkpoint.every=9", "task.pooling=cls")
    train_run(tuned.configured(base, table, run, *settings, *grown, *once), QUIET)
    before, after = tuned.whole(base), tuned.whole(run)
    ids = list(runs.open_run(run).config.peft["new"].ids)
    assert ids[0] == size - 1 and len(ids) == 2
    name = "embeddings/tokens/embedding"
    np.testing.assert_array_equal(after[name][: size - 1], before[name][: size - 1])
    moved = after["adapters/embeddings/tokens/new_rows"]
    assert moved.shape == (2, after[name].shape[1]) and np.abs(moved).max() > 1e-5
    assert name not in {x.removeprefix("['params']") for x in toy.restored(run, 9)}

    export(base, tmp_path / "base", say=QUIET)
    export(run, tmp_path / "adapter", say=QUIET)
    given = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert sorted(*given["trainable_token_indices"].values()) == sorted(ids)
    of = transformers.AutoModelForSequenceClassification
    plain = of.from_pretrained(tmp_path / "base", num_labels=2)
    plain.resize_token_embeddings(size)
    wrapped = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "adapter")
    texts, mine = rows_of(run, tmp_path / "rows.jsonl")
    with torch.no_grad():
        logits = wrapped(**tokenizer(texts, return_tensors="pt", padding=True)).logits
    np.testing.assert_allclose(mine, torch.softmax(logits, -1).numpy(), rtol=0, atol=2e-6)

    merge(run, tmp_path / "merged", say=QUIET)
    _, again = rows_of(tmp_path / "merged", tmp_path / "merged.jsonl")
    np.testing.assert_allclose(mine, again, rtol=0, atol=2e-6)
    with pytest.raises(UserError, match="no such token") as caught:
        build(tuned.configured(base, table, tmp_path / "no", *settings[:2], "peft.new.tokens=[ca]"))
    assert "'cat'" in str(caught.value.fix)

    # Gone on with, rows are those of the same tokens.
    second = (f"init.from={run}", *settings[:2])
    build(tuned.configured(base, table, tmp_path / "on", *second, settings[2], *once))
    for tokens in ("cat, a bird", "a bird, cat, a"):
        others = (*second, f"peft.new.tokens=[{tokens}]", *once)
        with pytest.raises(UserError, match="cannot go on as one of other tokens") as caught:
            build(tuned.configured(base, table, tmp_path / "on", *others))
        assert caught.value.where == "peft.new.ids" and str(ids) in str(caught.value.expected)
    fresh = (*others, 'init.fresh=["adapters/**/new_*"]')
    build(tuned.configured(base, table, tmp_path / "on", *fresh))


def test_what_peft_files_do_not_hold_is_not_left_out_unsaid(base, table, tmp_path):
    settings = ("peft.name=lora", 'freezing.train=["encoder/layers/attention_norm/**"]')
    once = ("train.steps=1", "train.epochs=null", "task.pooling=cls")
    train_run(tuned.configured(base, table, tmp_path / "run", *settings, *once), QUIET)
    with pytest.raises(UserError, match="trained more than PEFT's files") as caught:
        export(tmp_path / "run", tmp_path / "adapter", say=QUIET)
    assert "norm" in str(caught.value.where)


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


def test_layers_that_are_not_chosen_and_biases_of_others_keep_their_bits(base, table, tmp_path):
    """Trained and merged; by DoRA, whose lengths would move the kernels of all layers."""
    run, chosen = tmp_path / "run", ("peft.name=lora", "peft.layers=[1]", "peft.bias=lora_only")
    settings = (*chosen, "peft.magnitude=true", "train.steps=3", "train.epochs=null")
    train_run(tuned.configured(base, table, run, *settings, "task.pooling=cls"), QUIET)
    merge(run, tmp_path / "merged", say=QUIET)
    before, after, merged = map(tuned.whole, (base, run, tmp_path / "merged"))
    moved = {(n, i) for n in after for i in (0, 1) if n in before and "layers" in n
             and not np.array_equal(before[n][i], after[n][i])}  # fmt: skip
    assert moved == {(f"encoder/layers/attention/{n}/bias", 1) for n in ("query", "value")}
    for name in ("query", "value"):
        path = f"encoder/layers/attention/{name}"
        b = after[f"adapters/{path}/default_b"]
        assert not np.any(b[0]) and np.any(b[1])
        kernels = before[f"{path}/kernel"], merged[f"{path}/kernel"]
        assert [np.array_equal(*pair) for pair in zip(*kernels)] == [True, False]


PISSA = ("peft.name=lora", "peft.initialization=pissa", "peft.rank=2")


@pytest.fixture(scope="module")
def pissa(base, table, tmp_path_factory):
    out = tmp_path_factory.mktemp("pissa") / "run"
    train_run(configured(base, table, out, *PISSA), QUIET)
    return out


def test_what_pissa_begins_with_is_of_the_base_and_kept_as_it_is(pissa, base, table, tmp_path):
    """Also when the run is cut off and started again."""
    before, after = tuned.whole(base), tuned.whole(pissa)
    for name in ("query", "value"):
        path = f"encoder/layers/attention/{name}"
        assert np.array_equal(before[f"{path}/kernel"], after[f"{path}/kernel"])
        kernels = before[f"{path}/kernel"].reshape(2, 16, 16)
        a, b, a0, b0 = (after[f"adapters/{path}/default_{x}"] for x in ("a", "b", "a0", "b0"))
        products = 8 * a0.reshape(2, -1, 2) @ b0.reshape(2, 2, -1)
        left = np.linalg.svd(kernels - products, compute_uv=False)[:, :-2]
        want = np.linalg.svd(kernels, compute_uv=False)[:, 2:]
        np.testing.assert_allclose(left, want, rtol=0, atol=1e-6)
        assert np.any(a) and np.any(b)
    again = tmp_path / "run"
    shutil.copytree(pissa, again)
    shutil.rmtree(again / "checkpoints" / "18")
    train_run(configured(base, table, again, *PISSA), QUIET)
    toy.assert_same_arrays(toy.restored(again, 18), toy.restored(pissa, 18))


def test_pissa_is_gone_on_with_and_merged(pissa, table, tmp_path):
    out, once = tmp_path / "more", ("train.steps=2", "train.epochs=null")
    train_run(tuned.configured(pissa, table, out, *PISSA, *once, "task.pooling=cls"), QUIET)
    before, after = tuned.whole(pissa), tuned.whole(out)
    held = [name for name in before if name.endswith(("_a0", "_b0"))]
    assert len(held) == 4 and all(np.array_equal(before[name], after[name]) for name in held)
    merge(pissa, tmp_path / "merged", say=QUIET)
    _, mine = rows_of(pissa, tmp_path / "run.jsonl")
    _, again = rows_of(tmp_path / "merged", tmp_path / "merged.jsonl")
    np.testing.assert_allclose(mine, again, rtol=0, atol=2e-6)


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
    monkeypatch.setattr(parameters, "folded_model", lambda model: model)
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
    with pytest.raises(UserError, match="with what adapters take of them"):
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
        (("peft.name=lora", "peft.targets=[qery]"), "a target is nowhere", "peft.default.targets"),
        (("peft.name=ia3", "peft.inputs=[gate]"), "a target is nowhere", "peft.default.inputs"),
        (
            ("peft.name=lora", "peft.rank_by_target={up: 4}"),
            "does not change what a setting is for",
            "peft.default.rank_by_target",
        ),
        (
            ("peft.name=prefix", "peft.length=250", "peft.takes_positions=true"),
            "no position for a text",
            "peft.*.length",
        ),
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
        (("peft.name=prompt", "peft.length=32"), "no position for a text", "peft.*.length"),
        (("peft.name=prompt", "peft.length=10"), "with what adapters take", "data.max_length"),
        (("peft.name=lora", "init.scratch=true"), "starts from nothing", "peft, init.from"),
        (("peft.name=adalora",), "", "peft"),
        (("peft.name=lora", "peft.layers=[1,2]"), "no such layer", "peft.default.layers"),
        (("peft.name=lora", "peft.layers=[-1]"), "not a choice of layers", "peft"),
        (("peft.name=lora", "peft.layers=[0]", "peft.targets=[tokens]"), "nowhere", "peft"),
        (
            ("peft.name=lora", "peft.targets=['encoder/layers[0]/attention/query']"),
            "those of all layers",
            "peft",
        ),
        (
            ("peft.name=lora", "peft.targets=[tokens]", "peft.bias=lora_only"),
            "no biases that could be trained",
            "peft.default.bias",
        ),
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


def test_each_learns_at_a_rate_of_its_own_and_heads_at_the_fastest(base, table, tmp_path):
    rate, adapters = (
        1e-4,
        {
            "thin": {"name": "lora", "targets": ["query"], "second_factor": 16},
            "own": {"name": "bitfit", "learning_rate_factor": 3},
        },
    )
    settings = [f"optimizer={{name: adamw, learning_rate: {rate}, clip_norm: null}}"]
    settings += ["optimizer.schedule.name=constant", "optimizer.epsilon=1e-20", "train.steps=1"]
    settings += ["train.epochs=null", f"peft={json.dumps(adapters)}", "freezing.preset=top"]
    config = tuned.configured(base, table, tmp_path / "run", *settings, "task.pooling=cls")
    train_run(config, QUIET)
    before, after = tuned.whole(base), tuned.whole(tmp_path / "run")
    moved = {}
    for name, x in after.items():
        first = before.get(name, np.zeros_like(x) if name.endswith("_b") else None)
        if first is not None and not np.array_equal(first, x):
            moved[name] = np.abs(x - first).max() / rate
    kinds = {"pooler": 10, "bias": 3, "thin_b": 160, "others": 1}  # others: the top layer's
    found = {kind: [] for kind in kinds}
    for name, size in moved.items():
        parts = (name.split("/")[0], name.rsplit("/", 1)[1], "others")
        found[next(part for part in parts if part in kinds)].append(size)
    for kind, factor in kinds.items():
        assert found[kind], kind
        np.testing.assert_allclose(found[kind], factor, rtol=1e-2, err_msg=kind)


def test_ids_that_are_not_those_of_the_tokens_are_refused(base):
    tokenizer = load_tokenizer(str(base / "tokenizer"))
    cat = {tokenizer.token(i): i for i in range(tokenizer.vocab_size)}["cat"]
    assert Tokens(tokens=("cat",), ids=(cat,)).prepared(tokenizer).ids == (cat,)
    with pytest.raises(UserError, match="these tokens have other ids"):
        Tokens(tokens=("cat",), ids=(cat + 1,)).prepared(tokenizer)
    with pytest.raises(UserError, match="not a choice of tokens"):
        Tokens(tokens=("cat",), ids=(5, 5))


def test_adapters_of_the_start_are_not_left_behind_unsaid(run, table, tmp_path):
    for given in ((), ("peft.name=ia3",), ("peft.other.name=lora",)):
        with pytest.raises(UserError, match="has adapters that this one has not") as caught:
            build(tuned.configured(run, table, tmp_path / "on", *given))
        assert "default (lora)" in str(caught.value.expected)
        assert f"jaxssl merge {run}" in str(caught.value.fix)
    dropped = tuned.configured(run, table, tmp_path / "on", "init.drop=[adapters/**]")
    assert not build(dropped).config.peft

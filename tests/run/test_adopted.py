"""Adapters that begin as another run trained them, or as PEFT's files hold them."""

import json
import shutil

import numpy as np
import pytest
import toy
import tuned
from safetensors.numpy import load_file, save_file

from jaxssl.commands.export import export
from jaxssl.commands.merge import merge
from jaxssl.core.errors import UserError
from jaxssl.run.build import build
from jaxssl.run.open import evaluate_run
from jaxssl.run.train import train_run

QUIET = lambda text: None  # noqa: E731


def configured(base, table, out, *settings):
    common = ("task.pooling=cls", "train.epochs=1", "checkpoint.every=5")
    return tuned.configured(base, table, out, *common, *settings)


@pytest.fixture(scope="module")
def run(base, table, tmp_path_factory):
    """A BERT with an adapter `style`; nine steps."""
    out = tmp_path_factory.mktemp("adopted") / "run"
    settings = ("peft.style.name=lora", "peft.style.rank=3", "peft.style.targets=[query, up]")
    train_run(configured(base, table, out, *settings), QUIET)
    return out


def own(run_dir, name):
    """The parameters of an adapter, without its name."""
    lead = f"/{name}_"
    whole = tuned.whole(run_dir)
    return {path.replace(lead, "/"): x for path, x in whole.items() if lead in path}


def test_a_frozen_adapter_of_another_run_keeps_its_bits_beside_one_that_is_trained(
    run, base, table, tmp_path
):
    out, told = tmp_path / "run", []
    settings = (f"peft.old.from={run}", "peft.old.frozen=true", "peft.style.name=ia3")
    train_run(configured(base, table, out, *settings), told.append)
    assert any("adopted" in line and "old from step 9 of" in line for line in told), told
    assert any("old is taken, and not classify" in line for line in told)
    before, after = own(run, "style"), own(out, "old")
    assert before.keys() == after.keys() and len(after) == 4
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert all(np.any(x) for name, x in after.items())
    ledger = json.loads((out / "ledger.json").read_text())
    assert ledger["from"]["adopted"]["old"]["step"] == 9
    rows = [row for row in ledger["parameters"] if row["action"] == "adopted"]
    assert len(rows) == 4 and all(row["source"].startswith(f"{run}: ") for row in rows)
    kept = {name for name in toy.restored(out, 9) if name.startswith("['kept']")}
    assert len(kept) == 4, "its own checkpoint holds them"

    # Cut off and started again it ends with the same bits.
    again = tmp_path / "again" / "run"
    shutil.copytree(out, again)
    shutil.rmtree(again / "checkpoints" / "9")
    train_run(configured(base, table, again, *settings), QUIET)
    toy.assert_same_arrays(toy.restored(again, 9), toy.restored(out, 9))

    # The run that it came from is not needed to use it, nor to go on from it without `from`.
    moved = run.rename(run.with_name("moved"))
    try:
        tuned.whole(out)
        with pytest.raises(UserError, match="no adapter to begin from"):
            configured(base, table, tmp_path / "more", *settings)
    finally:
        moved.rename(run)


def test_trained_on_it_moves_and_may_be_of_one_name_of_several(run, base, table, tmp_path):
    out = tmp_path / "run"
    train_run(configured(base, table, out, f"peft.style.from={run}#style"), QUIET)
    before, after = own(run, "style"), own(out, "style")
    assert all(not np.array_equal(before[name], after[name]) for name in before)
    assert all(np.abs(before[name] - after[name]).max() < 1 for name in before)


@pytest.mark.parametrize(
    ("settings", "what", "told"),
    [
        (("peft.style.rank=4",), "another setting", ("3", "4")),
        (("peft.style.name=ia3",), "another setting", ("'lora'", "'ia3'")),
        (("peft.style.from={run}#form",), "no such adapter", ("style", "form")),
        (("peft.style.from={base}",), "this run has no adapters", ("peft", "base")),
        (("init.from={classifier}",), "another model", ("base", "classifier")),
    ],
)
def test_what_does_not_fit_is_refused(settings, what, told, run, base, classifier, table, tmp_path):
    given = [text.format(run=run, base=base, classifier=classifier) for text in settings]
    with pytest.raises(UserError, match=what) as caught:
        train_run(
            configured(base, table, tmp_path / "run", f"peft.style.from={run}", *given), QUIET
        )
    error = caught.value
    assert all(text in f"{error.expected} {error.got}" for text in told), error


def test_peft_files_are_begun_from(run, base, table, tmp_path):
    """What PEFT's files hold is what the run that wrote them holds."""
    model, adapter, out = tmp_path / "model", tmp_path / "adapter", tmp_path / "run"
    export(base, model, say=QUIET)
    export(run, adapter, say=QUIET)
    settings = (f"peft.style.from={adapter}", "peft.style.frozen=true")
    told = []
    train_run(configured(model, table, out, *settings), told.append)
    assert any("style is taken, and not pooler, classifier.bias" in line for line in told), told
    before, after = own(run, "style"), own(out, "style")
    assert before.keys() == after.keys() and len(after) == 4
    assert all(np.array_equal(before[name], after[name]) for name in before)
    with pytest.raises(UserError, match="beside the model that it is for"):
        configured(base, table, tmp_path / "more", *settings)
    weights = adapter / "adapter_model.safetensors"
    words = load_file(model / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    more = {"base_model.model.bert.embeddings.word_embeddings.weight": words + 1}
    save_file({**load_file(weights), **more}, weights)
    with pytest.raises(UserError, match="model itself were trained with") as caught:
        build(configured(model, table, tmp_path / "more", *settings))
    assert "embeddings/tokens" in caught.value.got and "jaxssl import" in caught.value.fix


def test_a_fusion_is_trained_alone_over_adapters_that_were_trained_before(base, table, tmp_path):
    parts, out, told = tmp_path / "parts", tmp_path / "run", []
    narrow = ("name=bottleneck", "reduction=8", "after=[feed_forward]")
    small = ("name=compacter", "reduction=4", "after=[feed_forward]")
    settings = [f"peft.{n}.{x}" for n, each in (("a", narrow), ("b", small)) for x in each]
    train_run(configured(base, table, parts, *settings), QUIET)
    of = [f"peft.{n}.{x}" for n in "ab" for x in (f"from={parts}", "frozen=true")]
    of += ["peft.own.name=fusion", "peft.own.of=[a, b]"]
    train_run(configured(base, table, out, *of), told.append)
    before, after = tuned.whole(parts), tuned.whole(out)
    same = [name for name in before if "/a_" in name or "/b_" in name]
    assert len(same) == 4 + 6 + 1
    assert all(np.array_equal(before[name], after[name]) for name in same)
    names = {name.split("']['", 1)[1] for name in toy.restored(out, 9) if "['kept']" in name}
    assert len(names) == len(same)
    value = after["adapters/encoder/layers/feed_forward/own_value"]
    assert np.abs(value - np.eye(value.shape[-1])).max() > 1e-3, "it was trained"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    drawn = [line["penalty"] for line in lines if line["kind"] == "train"]
    whole = 0.01 * np.square(value - np.eye(value.shape[-1])).sum()
    assert 0 < drawn[-1] < 1.5 * whole, "values are drawn to the identity as they leave it"
    assert evaluate_run(out)["step"] == 9
    with pytest.raises(UserError, match="nothing that the model's own parameters could do"):
        merge(out, tmp_path / "merged", say=QUIET)
    with pytest.raises(UserError, match="PEFT cannot read"):
        export(out, tmp_path / "exported", say=QUIET)

    # Cut off and started again it ends with the same bits.
    again = tmp_path / "again" / "run"
    shutil.copytree(out, again)
    shutil.rmtree(again / "checkpoints" / "9")
    train_run(configured(base, table, again, *of), QUIET)
    toy.assert_same_arrays(toy.restored(again, 9), toy.restored(out, 9))

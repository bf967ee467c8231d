"""Adapters that a run is opened with: its own by name, those of other runs and of PEFT's files."""

import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest
import tiny
import toy
import tuned

from jaxssl.commands.embed import open_embedder
from jaxssl.commands.export import export
from jaxssl.commands.import_hf import import_model
from jaxssl.commands.predict import predict
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten, unflatten
from jaxssl.run.adapters import check_lead
from jaxssl.run.applied import apply, fills, has_task, makes_vectors, writes
from jaxssl.run.open import evaluate_run, fill_masks, open_run
from jaxssl.run.train import train_run
from jaxssl.transfer.peft.lora import Lora

QUIET = lambda text: None  # noqa: E731
TEXTS = ["the cat sees a [MASK] at home", "my sister sees a [MASK]"]
LORA = ("name=lora", "rank=3", "targets=[query, up]")


def trained(base, table, out, *settings):
    """Three steps, large enough to be seen."""
    few = ("train.steps=3", "train.epochs=null", "checkpoint.every=3", "task.pooling=cls")
    train_run(tuned.configured(base, table, out, *few, *settings), QUIET)
    return out


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("applied")


@pytest.fixture(scope="module")
def law(base, table, place):
    """A classifier with one LoRA, which was given no name."""
    return trained(base, table, place / "law", "peft.name=lora", "optimizer.learning_rate=0.1")


@pytest.fixture(scope="module")
def headed(base, table, place):
    """A classifier whose head alone was trained."""
    return trained(base, table, place / "headed", "freezing.preset=head")


@pytest.fixture(scope="module")
def narrow(base, table, place):
    """Two bottlenecks that are summed, beside a LoRA `style`."""
    small = ("name=bottleneck", "reduction=8", "after=[feed_forward]")
    settings = [f"peft.{name}.{x}" for name in "ab" for x in small]
    settings += ["peft.both.name=sum", "peft.both.of=[a, b]"]
    settings += [f"peft.style.{x}" for x in LORA]
    return trained(base, table, place / "narrow", *settings)


@pytest.fixture(scope="module")
def masked(base, words, place):
    """A LoRA that goes on with the base's own objective."""
    settings = (f"init.from={base}", "train.steps=3", "peft.name=lora", "evaluation.every=0")
    small = ("optimizer.schedule.warmup=1", "checkpoint.every=3", "optimizer.learning_rate=0.03")
    train_run(toy.configured(words, place / "masked", "bert", *settings, *small), QUIET)
    return place / "masked"


def arrays(opened):
    return {name: np.asarray(x) for name, x in flatten(opened.params).items()}


def hidden(opened):
    """Of rows of word ids, without a head."""
    batch = tiny.rows([[x] for x in tiny.random_documents([9, 5, 12])])
    with opened.in_use():
        return np.asarray(opened.model.encode(opened.params, batch))


def predicted(run, out, **given):
    table = out.with_suffix(".in.jsonl")
    table.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    predict(run, table, out, note=QUIET, **given)
    return out.read_text()


def test_a_base_without_a_task_is_used_as_the_run_of_the_adapter(base, law, tmp_path, capsys):
    opened, own = open_run(base, adapters=[str(law)]), open_run(law)
    toy.assert_same_arrays(arrays(opened), arrays(own))
    assert opened.model == own.model and opened.run_dir == law
    for able, run in ((has_task, law), (writes, base), (fills, base), (makes_vectors, base)):
        assert apply(base, [str(law)], able).run_dir == run
    told = capsys.readouterr().err
    assert "adapters: default" in told and f"head and the tokenizer are those of {law}" in told
    assert evaluate_run(base, adapters=[str(law)]) == evaluate_run(law)
    given = {"adapters": [str(law)]}
    assert predicted(base, tmp_path / "a.jsonl", **given) == predicted(law, tmp_path / "b.jsonl")
    vectors, plain = open_embedder(law).embed(TEXTS), open_embedder(base).embed(TEXTS)
    assert np.array_equal(open_embedder(base, adapters=[str(law)]).embed(TEXTS), vectors)
    assert np.abs(vectors - plain).max() > 1e-3, "the adapter changes something"


def test_a_base_with_a_head_keeps_it(base, law, headed, tmp_path, capsys):
    opened = open_run(headed, adapters=[str(law)])
    told = capsys.readouterr().err
    assert f"law of {law}#default" in told and "law is taken, and not classify, pooler" in told
    mine, heads, there = arrays(opened), arrays(open_run(headed)), arrays(open_run(law))
    renamed = {name: x for name, x in mine.items() if name.startswith("adapters/")}
    toy.assert_same_arrays(
        {name.replace("/law_", "/default_"): x for name, x in renamed.items()},
        {name: x for name, x in there.items() if name.startswith("adapters/")},
    )
    toy.assert_same_arrays({name: x for name, x in mine.items() if name not in renamed}, heads)
    assert np.array_equal(hidden(opened), hidden(open_run(law)))
    given = {"adapters": [str(law)]}
    rows = predicted(headed, tmp_path / "a.jsonl", **given)
    assert rows not in (
        predicted(headed, tmp_path / "b.jsonl"),
        predicted(law, tmp_path / "c.jsonl"),
    )


def test_effects_of_several_add_up(base, law, headed, narrow):
    """As kernels that both were added to, by hand."""
    opened = open_run(headed, adapters=[str(law), f"{narrow}#style"])
    assert [*opened.config.peft] == ["law", "style"]
    flat = arrays(opened)
    for path in ("attention/query", "attention/value", "feed_forward/up"):
        kernel = f"encoder/layers/{path}/kernel"
        for name, method in opened.config.peft.items():
            a, b = (flat.get(f"adapters/encoder/layers/{path}/{name}_{x}") for x in "ab")
            if a is None or b is None:
                continue
            assert isinstance(method, Lora)
            added = np.einsum("lir,lr...->li...", a.astype(float), b) * method.alpha / method.rank
            assert np.abs(added).max() > 1e-3
            flat[kernel] = (flat[kernel] + added).astype(np.float32)
    params = unflatten({name: x for name, x in flat.items() if not name.startswith("adapters/")})
    plain = dataclasses.replace(opened, model=dataclasses.replace(opened.model, adapters=()))
    want = hidden(dataclasses.replace(plain, params=params))
    np.testing.assert_allclose(hidden(opened), want, rtol=0, atol=1e-5)


def test_those_that_are_named_are_active_and_the_others_left_out(narrow, headed, base, capsys):
    picked = open_run(narrow, adapters=["style"])
    assert f"of {narrow}, not a, b, both" in capsys.readouterr().err
    left = {name: x for name, x in arrays(picked).items() if name.startswith("adapters/")}
    assert left and all("/style_" in name for name in left)
    alone = open_run(headed, adapters=[f"{narrow}#style"])
    assert np.array_equal(hidden(picked), hidden(alone))
    assert not np.array_equal(hidden(picked), hidden(open_run(narrow)))
    # A sum comes with its parts, from its run and elsewhere.
    summed = open_run(narrow, adapters=["both"])
    assert {*summed.config.peft} == {"a", "b", "both"}
    assert np.array_equal(hidden(summed), hidden(open_run(headed, adapters=[f"{narrow}#both"])))
    assert np.array_equal(
        hidden(open_run(headed, adapters=[str(narrow)])), hidden(open_run(narrow))
    )
    # Of the run whose task is used, too.
    of_base = open_run(base, adapters=[f"{narrow}#style"])
    toy.assert_same_arrays(arrays(of_base), arrays(picked))


def test_what_the_base_can_do_it_does_with_the_adapter(base, masked, law):
    assert fill_masks(base, TEXTS, adapters=[str(masked)]) == fill_masks(masked, TEXTS)
    assert fill_masks(base, TEXTS, adapters=[str(masked)]) != fill_masks(base, TEXTS)
    assert fill_masks(base, TEXTS, adapters=[str(law)]) != fill_masks(base, TEXTS)
    # Its own heads are kept: that of sentence pairs was trained with the adapter, and is not taken.
    mine, own = evaluate_run(base, adapters=[str(masked)]), evaluate_run(masked)
    assert mine["loss/masked_lm"] == own["loss/masked_lm"]
    assert mine["loss/next_sentence"] != own["loss/next_sentence"]


def test_peft_files_over_a_base_are_what_is_imported_of_both(base, masked, law, tmp_path, capsys):
    for run, name in ((base, "model"), (masked, "adapter"), (law, "of-law")):
        export(run, tmp_path / name, say=QUIET)
    import_model(tmp_path / "model", tmp_path / "base", say=QUIET)
    of = str(tmp_path / "model")
    import_model(tmp_path / "adapter", tmp_path / "whole", base=of, say=QUIET)
    adapter = str(tmp_path / "adapter")
    want = fill_masks(tmp_path / "whole", TEXTS)
    assert fill_masks(tmp_path / "base", TEXTS, adapters=[adapter]) == want
    assert fill_masks(tmp_path / "base", TEXTS) != want
    fill_masks(tmp_path / "base", TEXTS, adapters=[str(tmp_path / "of-law")])
    assert "of-law is taken, and not pooler, classifier" in capsys.readouterr().err
    # The run that was imported of both is one of the same model.
    whole = str(tmp_path / "whole")
    assert fill_masks(tmp_path / "base", TEXTS, adapters=[whole]) == want
    with pytest.raises(UserError, match="beside the model that it is for") as caught:
        open_run(base, adapters=[adapter])
    assert adapter in str(caught.value.where) and "jaxssl import" in str(caught.value.fix)


def test_a_base_that_was_moved_is_found_where_it_is_named(base, law, tmp_path):
    there, run = tmp_path / "there", tmp_path / "law"
    shutil.copytree(base, there)
    shutil.copytree(law, run)
    noted = json.loads((run / "base.json").read_text())
    (run / "base.json").write_text(json.dumps({**noted, "run": str(tmp_path / "gone")}))
    (run / "seal.json").unlink()
    toy.assert_same_arrays(arrays(open_run(there, adapters=[str(run)])), arrays(open_run(law)))


@pytest.mark.parametrize(
    ("run", "adapters", "what", "told"),
    [
        ("classifier", ["{law}"], "another model", ("--adapter {law}, ", "--step")),
        ("masked", ["{other}"], "another model", ("--adapter {other}", "--step")),
        ("narrow", ["stile"], "no such adapter", ("--adapter", "'style'", "a, b, both, style")),
        ("base", ["style"], "no such adapter", ("--adapter", "a directory")),
        ("base", ["{law}x"], "no such adapter", ("did you mean", "law")),
        ("narrow", ["style", "style"], "given twice", ("style",)),
        ("headed", ["{law}", "{law}/"], "given twice", ("law/",)),
        ("narrow", ["{narrow}#style"], "its own adapters already", ("--adapter style",)),
        ("narrow", ["{law}#form"], "no such adapter", ("--adapter", "default")),
        ("headed", ["{base}"], "no adapters", ("--adapter", "{base}")),
        ("headed", ["{words}"], "no adapter to begin from", ("--adapter", "RUN#NAME")),
        ("headed", ["{biased}"], "the model itself were trained", ("{biased}", "**/bias")),
        ("biased", ["style"], "the model itself were trained", ("default", "**/bias")),
        ("headed", ["{narrow}#a", "{narrow}#both"], "two adapters", ("fusion first",)),
    ],
)
def test_what_cannot_be_applied_is_refused(
    run, adapters, what, told, base, classifier, law, headed, narrow, masked, words, place, request
):
    """One mistake, that says what to give."""
    known = {"base": base, "classifier": classifier, "law": law, "headed": headed, "words": words}
    known |= {"narrow": narrow, "masked": masked}
    for name in ("other", "biased"):
        if f"{{{name}}}" in str(adapters) or run == name:
            known[name] = request.getfixturevalue(name)
    with pytest.raises(UserError, match=what) as caught:
        open_run(known[run], adapters=[text.format(**known) for text in adapters])
    assert all(text.format(**known) in str(caught.value) for text in told), caught.value


def test_a_base_with_adapters_of_its_own_is_used_with_the_task_of_another(base, masked, law):
    """Both are active: the same model, whichever is named first."""
    both = open_run(masked, adapters=[str(law)])
    assert [*both.config.peft] == ["default", "masked"] and both.run_dir == law
    other_way = open_run(base, adapters=[str(law), str(masked)])
    toy.assert_same_arrays(arrays(both), arrays(other_way))


@pytest.fixture(scope="module")
def other(classifier, table, place):
    """An adapter of another model."""
    settings = ("peft.name=lora", "train.steps=1", "checkpoint.every=1")
    return trained(classifier, table, place / "other", *settings)


@pytest.fixture(scope="module")
def biased(base, table, place):
    """A LoRA `style` and all biases."""
    settings = [f"peft.style.{x}" for x in LORA]
    return trained(base, table, place / "biased", "peft.default.name=bitfit", *settings)


def test_biases_that_were_trained_come_with_their_run(base, biased):
    toy.assert_same_arrays(arrays(open_run(base, adapters=[str(biased)])), arrays(open_run(biased)))


def test_virtual_tokens_of_another_run_need_room(base, table, words, headed, place, tmp_path):
    settings = ("peft.name=prompt", "peft.length=6", "train.steps=1", "checkpoint.every=1")
    run = trained(base, table, place / "prompt", *settings)
    adapters = [str(run)]
    predicted(headed, tmp_path / "a.jsonl", adapters=adapters)
    long = ["data.max_length=30"]
    for verb in (evaluate_run, functools.partial(predicted, out=tmp_path / "b.jsonl")):
        with pytest.raises(UserError, match="with what adapters take of them"):
            verb(headed, layers=long, adapters=adapters)
    assert not (tmp_path / "b.jsonl").exists()
    several = toy.configured(words, tmp_path / "run", "masked").all_streams[""]
    with pytest.raises(UserError, match="rows hold several"):
        check_lead(open_run(headed, adapters=adapters).model, several, None)


def test_evaluation_too_refuses_rows_of_several_texts_behind_virtual_tokens(words, tmp_path):
    """Each text has its own in a model that sees both ways."""
    settings = ("data.rows.name=documents", "peft.name=prompt", "peft.length=4")
    few = ("train.steps=1", "checkpoint.every=1", "evaluation.every=0")
    few += ("optimizer.schedule.warmup=1",)
    base = tmp_path / "base"
    train_run(toy.configured(words, base, "masked", *few), QUIET)
    settings += (f"init.from={base}",)
    train_run(toy.configured(words, tmp_path / "run", "masked", *few, *settings), QUIET)
    assert evaluate_run(tmp_path / "run")["loss"] > 0
    with pytest.raises(UserError, match="rows hold several"):
        evaluate_run(tmp_path / "run", layers=["data.rows={name: windows}"])

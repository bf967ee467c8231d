"""Continued pretraining: what it begins with, what it measures, and that it goes on exactly."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import toy
import tuned

from jaxssl import cli
from jaxssl.commands import adapt
from jaxssl.core.errors import UserError
from jaxssl.data.store.store import TokenStore
from jaxssl.data.tokenizer.extension import pieces_before
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.report import write_report
from jaxssl.report.adaptation import lines, rows, words
from jaxssl.run.adapting import measures
from jaxssl.run.adapting.plan import NEW, OLD
from jaxssl.run.adapting.request import Request, old_stream
from jaxssl.run.open import evaluate_run, open_run
from jaxssl.run.recipes import load_config, read_config
from jaxssl.run.sealing import seal_run
from jaxssl.run.train import train_run

QUICK = (
    *("logging.progress=false", "logging.tensorboard=false", "logging.compare_full=false"),
    *("checkpoint.every=2", "checkpoint.keep_last=9", "evaluation.every=4", "train.steps=4"),
)
ONE_WORKER = ("--set", "workers=1", "--set", "tasks=1", "--set", "validation_fraction=0.2")
STILL = ("optimizer.learning_rate=0", "train.steps=2")
WORDS = "katze hund garten haus baum sieht findet malt immer wieder unter neben dem der die grau"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Text of another language, whose letters the toy tokenizer knows for the most part."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("corpus") / "new.jsonl"
    with open(path, "w") as file:
        for _ in range(60):
            text = ". ".join(" ".join(rng.choice(WORDS.split(), 6)) for _ in range(5))
            file.write(json.dumps({"text": f"{text}."}) + "\n")
    return path


@pytest.fixture(scope="session")
def masked(words, tmp_path_factory):
    """A masked model with learned positions for rows of 16, after four steps."""
    changes = ("train.steps=4", "optimizer.schedule.warmup=1", "evaluation.every=0")
    changes += ("model.max_positions=16", "train.seed=3")

    def make(out):
        train_run(toy.configured(words, out, "masked", *changes), lambda text: None)

    return toy.shared(tmp_path_factory, "adapt-masked", make)


@pytest.fixture(scope="session")
def llama(byte_store, tmp_path_factory):
    """A small Llama over bytes, after four steps."""

    def make(out):
        recipe = toy.recipe(byte_store, out, "gpt2")
        recipe["model"] |= {"name": "llama", "num_kv_heads": 1, "max_positions": 16}
        changes = ("train.steps=4", "optimizer.schedule.warmup=1", "evaluation.every=0")
        train_run(load_config([recipe], changes), lambda text: None)

    return toy.shared(tmp_path_factory, "adapt-llama", make)


def adapted(run, out, *arguments):
    code = cli.main(["adapt", str(run), "--out", str(out), *map(str, arguments)])
    assert code == 0
    return json.loads((out / "adaptation.json").read_text())


@pytest.fixture(scope="session")
def whole(masked, corpus, tmp_path_factory):
    """With all there is: further pieces, longer rows, replay; four steps."""

    def make(out):
        given = ("--corpus", corpus, *ONE_WORKER, "--extend-vocabulary", 20, "--length", 32)
        adapted(masked, out, *given, "--replay-share", 0.25, *QUICK)
        others = out.parent / f"{out.name}-given.json"
        others.write_text(json.dumps([*map(str, given), "--replay-share", "0.25", *QUICK]))

    return toy.shared(tmp_path_factory, "adapt-whole", make)


def record_of(out):
    return json.loads((out / "adaptation.json").read_text())


# --- What it begins with ------------------------------------------------------------------------


def test_new_rows_are_means_of_old_ones_and_positions_are_tiled(masked, corpus, tmp_path, capsys):
    out = tmp_path / "out"
    given = ("--corpus", corpus, *ONE_WORKER, "--extend-vocabulary", 20, "--length", 40)
    adapted(masked, out, *given, *QUICK, *STILL, "objective.slots=16")
    old, new = tuned.whole(masked), tuned.whole(out)
    tokenizers = [load_tokenizer(run / "tokenizer") for run in (masked, out)]
    first, before = tokenizers[0].vocab_size, pieces_before(*tokenizers)
    assert len(before) == 20
    for name in ("embeddings/tokens/embedding", "masked_lm/bias"):
        np.testing.assert_array_equal(new[name][:first], old[name][:first])
        for place, ids in enumerate(before, start=first):
            mean = old[name][ids].astype(np.float64).mean(axis=0)
            np.testing.assert_allclose(new[name][place], mean, rtol=1e-6, atol=1e-9)
    positions = "embeddings/positions/embedding"
    np.testing.assert_array_equal(new[positions], old[positions][np.arange(40) % 16])
    same = old.keys() - {positions, "embeddings/tokens/embedding", "masked_lm/bias"}
    toy.assert_same_arrays({n: new[n] for n in same}, {n: old[n] for n in same})
    said = capsys.readouterr().out
    assert "20 means of others" in said and "16 rows repeated, up to 40" in said


def test_an_untied_output_gets_means_too_and_the_rotary_base_is_another(llama, corpus, tmp_path):
    out = tmp_path / "out"
    given = ("--corpus", corpus, *ONE_WORKER, "--extend-vocabulary", 12, "--rotary-base", 5e4)
    record = adapted(llama, out, *given, "--length", 32, *QUICK, *STILL)
    old, new = tuned.whole(llama), tuned.whole(out)
    before = pieces_before(*(load_tokenizer(run / "tokenizer") for run in (llama, out)))
    first = load_tokenizer(llama / "tokenizer").vocab_size
    for place, ids in enumerate(before, start=first):
        mean = old["causal_lm/output/kernel"][:, ids].astype(np.float64).mean(axis=1)
        found = new["causal_lm/output/kernel"][:, place]
        np.testing.assert_allclose(found, mean, rtol=1e-6, atol=1e-9)
    model = read_config(out).model
    assert (model.rotary_theta, model.max_positions) == (5e4, 32)  # type: ignore[attr-defined]
    bytes_ = {x["tokens_per_byte"] for x in record["domains"][NEW].values()}
    assert len(bytes_) == 2 and min(bytes_) == record["domains"][NEW]["after"]["tokens_per_byte"]
    for numbers in record["domains"].values():
        before, after = numbers["before"]["positions"], numbers["after"]["positions"]
        assert (before["length"], after["length"]) == (16, 32)
        assert before["edges"] == after["edges"] == [*range(0, 33, 4)]
        assert not any(before["tokens"][4:]) and before["nats"][4:] == [None] * 4
        mean = np.dot(after["tokens"], [x or 0 for x in after["nats"]]) / sum(after["tokens"])
        assert mean == pytest.approx(numbers["after"]["nats_per_token"], rel=1e-5)


def test_a_run_that_learns_nothing_forgets_nothing(masked, corpus, tmp_path, capsys):
    """The same masks before and after, whatever the seed: nothing is left of a difference. Rows as
    long as before see the positions that they saw. Of two steps that are as good the first is the
    best."""
    given = ("--corpus", corpus, *ONE_WORKER, "--set", "max_unknown_rate=0.9")
    longer = ("model.max_positions=24", "init.new_positions=tile")
    other = ("train.seed=5", "evaluation.every=1")
    record = adapted(masked, tmp_path / "out", *given, *QUICK, *STILL, *longer, *other)
    assert record["domains"].keys() == {NEW, OLD} and record["replay"] == 0.0
    for numbers in record["domains"].values():
        before, after = numbers["before"], numbers["after"]
        assert before["step"] == 4 and after == {**before, "step": 1}
        assert before["nats_per_byte"] == before["nats_per_token"] * before["tokens_per_byte"]
    said = capsys.readouterr().out
    assert "Nothing was forgotten" in said
    assert "step 4 of the old run and step 1 of the new one, its best" in said


# --- Measures -----------------------------------------------------------------------------------


def test_the_table_has_the_numbers_of_evaluate(masked, words, whole):
    """Of the new run on both stores; of the old one on the old store, and on the held-out documents
    with its own tokenizer."""
    record, beside = record_of(whole), whole.with_name(f"{whole.name}-data")
    domains = record["domains"]
    for run, store, split, numbers in (
        (whole, beside / "store", None, domains[NEW]["after"]),
        (whole, words, None, domains[OLD]["after"]),
        (masked, words, None, domains[OLD]["before"]),
        (masked, beside / "held-out", "train", domains[NEW]["before"]),
    ):
        values = evaluate_run(run, step="last", store=str(store), split=split)
        assert values["loss/masked_lm"] == numbers["nats_per_token"]
        assert values["rows"] == numbers["rows"] and values["step"] == numbers["step"]
        per_byte = values["bits_per_byte"] * np.log(2)
        assert per_byte == pytest.approx(numbers["nats_per_byte"], rel=1e-12)
    for numbers in domains.values():  # each masked token is in one bucket
        found = numbers["after"]["positions"]
        mean = np.dot(found["tokens"], [x or 0 for x in found["nats"]]) / sum(found["tokens"])
        assert mean == pytest.approx(numbers["after"]["nats_per_token"], rel=1e-5)
    splits = [
        TokenStore.open(beside / name).manifest.splits[split]
        for name, split in (("store", "validation"), ("held-out", "train"))
    ]
    assert splits[0].bytes == splits[1].bytes and splits[0].documents == splits[1].documents
    assert domains[NEW]["before"]["unknown"] > 0.05 > domains[NEW]["after"]["unknown"]


def test_the_streams_take_turns_by_the_share(whole, words):
    config = read_config(whole)
    assert [s.weight for s in config.streams.values()] == [0.75, 0.25]
    assert config.streams[OLD].data.source == str(words)
    assert config.optimizer.learning_rate == 0.003
    assert config.optimizer.schedule.name == "cosine"
    assert config.train.seed == 3


def test_the_report_and_the_terminal_show_the_table(whole):
    record = record_of(whole)
    page = write_report(whole).read_text()
    assert "Adaptation" in page and "Loss by position, old domain" in page
    shown = "\n".join(lines(record))
    for name in (NEW, OLD):
        for when in ("before", "after"):
            unit = "nats_per_token" if name == NEW else "nats_per_byte"
            number = f"{record['domains'][name][when][unit]:.4f}"
            assert number in shown and number in page
    assert "150 pieces), so the new domain's numbers do not compare" in shown
    assert "unknown to the tokenizer" in shown


def domain(before, after):
    keys = ("nats_per_byte", "nats_per_token", "loss")
    return {
        when: {**dict.fromkeys(keys, x), "unknown": 0.0}
        for when, x in (("before", before), ("after", after))
    }


def test_numbers_of_a_masked_model_do_not_compare_across_vocabularies():
    """The old domain's do, for its text is cut as before; and so do those of a causal model."""
    record = {
        "pieces": {"before": 9, "after": 12},
        "length": {"before": 8, "after": 8},
        "sees_both_sides": True,
        "replay": 0.0,
        "domains": {NEW: domain(2.0, 1.9), OLD: domain(1.0, 1.3)},
    }
    kept = [
        ["old domain", "nats per token", "1.0000", "1.3000", "+0.3000"],
        ["old domain", "nats per byte", "1.0000", "1.3000", "+0.3000"],
    ]
    assert rows(record) == [["new domain", "nats per token", "2.0000", "1.9000", "-"], *kept]
    said = " ".join(words(record))
    assert "old domain lost 0.3000" in said and "what was gained is not told" in said
    assert "gained 0.1000" not in said and "replayed, in the old pieces" in said
    record["sees_both_sides"] = False
    assert rows(record) == [["new domain", "nats per byte", "2.0000", "1.9000", "-0.1000"], *kept]
    assert "gained 0.1000" in words(record)[0]


def test_more_forgotten_than_gained_is_said_in_words():
    record = {
        "pieces": {"before": 9, "after": 9},
        "length": {"before": 8, "after": 8},
        "replay": 0.0,
        "domains": {NEW: domain(2.0, 1.9), OLD: domain(1.0, 1.3)},
    }
    said = "lost 0.3000 nats per byte, the new one gained 0.1000: more was forgotten than gained"
    assert said in words(record)[0]
    record["domains"][NEW] = domain(2.0, 1.0)
    assert "more was forgotten" not in words(record)[0]
    del record["domains"][OLD]
    assert words(record) == ["Forgetting was not measured: there is no text of the old domain."]


# --- Going on -----------------------------------------------------------------------------------


def test_killed_and_started_again_it_ends_with_the_same_bits(masked, whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.copytree(whole.with_name(f"{whole.name}-data"), tmp_path / "run-data")
    shutil.rmtree(out / "checkpoints" / "4")
    record = record_of(out)
    for numbers in record["domains"].values():
        del numbers["after"]
    beside = whole.with_name(f"{whole.name}-data")
    (out / "adaptation.json").write_text(
        json.dumps(record).replace(str(beside), str(tmp_path / "run-data"))
    )
    given = json.loads(whole.with_name(f"{whole.name}-given.json").read_text())
    measured, original = [], measures.measured

    def noting(run, *arguments, **options):
        measured.append(run)
        return original(run, *arguments, **options)

    monkeypatch.setattr(measures, "measured", noting)
    learnt = (tmp_path / "run-data" / "tokenizer" / "tokenizer.json").stat().st_mtime_ns
    again = adapted(masked, out, *given)
    assert measured == [out]
    assert learnt == (tmp_path / "run-data" / "tokenizer" / "tokenizer.json").stat().st_mtime_ns
    toy.assert_same_arrays(toy.restored(out, 4), toy.restored(whole, 4))
    assert again["domains"] == record_of(whole)["domains"]


# --- Mistakes -----------------------------------------------------------------------------------


def refused(capsys, *arguments):
    assert cli.main(["adapt", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.count("error:") == 1
    return said[said.index("error:") :]


def test_a_store_of_other_pieces_is_refused_with_the_way_to_prepare_it(
    masked, words, byte_store, corpus, whole, tmp_path, capsys
):
    given = ("--corpus", corpus, *ONE_WORKER, "--set", "max_unknown_rate=0.9", *QUICK)
    said = refused(capsys, masked, "--out", tmp_path / "a", *given, "--replay", byte_store)
    assert "another tokenizer" in said and f"--replay {byte_store}" in said
    assert f"jaxssl prepare tokenizer={tmp_path / 'a-data' / 'store' / 'tokenizer'}" in said
    assert not (tmp_path / "a").exists()
    said = refused(capsys, masked, "--out", tmp_path / "b", "--store", byte_store)
    assert f"--store {byte_store}" in said and "another tokenizer" in said
    longer = whole.with_name(f"{whole.name}-data") / "store"  # its first pieces are the run's
    said = refused(capsys, masked, "--out", tmp_path / "c", "--store", longer)
    assert "another tokenizer" in said
    with pytest.raises(UserError, match=r"(?s)another tokenizer.*init.new_pieces=mean"):
        path = toy.write_recipe(tmp_path / "d.json", toy.recipe(longer, tmp_path / "d", "masked"))
        train_run(load_config([path], [f"init.from={masked}", "model.vocab_size=152"]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "a corpus is needed"),
        (("--corpus", "CORPUS", "--store", "STORE"), "one of them"),
        (("--store", "STORE", "--extend-vocabulary", "5"), "read as it is"),
        (("--corpus", "CORPUS", "--extend-vocabulary", "0"), "--extend-vocabulary"),
        (("--corpus", "CORPUS", "--length", "8"), "may be longer than those of the run"),
        (("--corpus", "CORPUS", "--rotary-base", "1e5"), "no rotary positions"),
        (("--corpus", "CORPUS", "--positions", "stretch"), "no --length"),
        (("--corpus", "CORPUS", "--replay-share", "1"), "--replay-share"),
        (("--corpus", "missing.txt"), "missing.txt"),
        (("--corpus", "EMPTY"), "no readable document"),
        (("--corpus", "CORPUS", "out=x"), "use --out"),
        (("--corpus", "CORPUS", "train.stepz=3"), "train.stepz"),
        (("--corpus", "CORPUS", "--set", "out=x"), "settled by the command"),
        (("--corpus", "CORPUS"), "--extend-vocabulary N"),
    ],
    ids=lambda x: "-".join(x)[:40] if isinstance(x, tuple) else "",
)
def test_a_mistake_is_explained(masked, words, corpus, tmp_path, capsys, arguments, said):
    (tmp_path / "empty.txt").write_text("\n")
    places = {"CORPUS": corpus, "STORE": words, "EMPTY": tmp_path / "empty.txt"}
    given = [places.get(word, word) for word in arguments]
    if "--corpus" in given:
        given += ONE_WORKER
    assert said in refused(capsys, masked, "--out", tmp_path / "out", *given)
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_there_or_has_labels_alone_is_refused(
    classifier, corpus, tmp_path, capsys
):
    given = ("--corpus", corpus, *ONE_WORKER, "--out", tmp_path / "out")
    assert "not a run directory" in refused(capsys, tmp_path / "none", *given)
    said = refused(capsys, classifier, *given)
    assert "was not pretrained" in said and "adapt what it started from" in said


def test_an_out_of_another_run_is_refused(base, masked, whole, corpus, capsys):
    given = ("--corpus", corpus, *ONE_WORKER, *QUICK)
    said = refused(capsys, base, "--out", whole, *given)
    assert "the adaptation of another run" in said
    said = refused(capsys, masked, "--out", base, *given)
    assert "that `jaxssl adapt` did not make" in said


def test_without_the_old_text_it_is_said_that_forgetting_is_not_measured(
    llama, byte_store, corpus, tmp_path, capsys
):
    copy = tmp_path / "moved"
    shutil.copytree(llama, copy)
    toy_config = (copy / "config.yaml").read_text().replace(str(byte_store), str(tmp_path / "gone"))
    (copy / "config.yaml").write_text(toy_config)
    seal_run(copy)
    given = ("--corpus", corpus, *ONE_WORKER, *QUICK, "train.steps=2")
    said = refused(capsys, copy, "--out", tmp_path / "a", *given, "--replay-share", 0.2)
    assert "nothing to replay" in said and "--replay STORE" in said
    record = adapted(copy, tmp_path / "b", *given)
    assert record["domains"].keys() == {NEW}
    out = capsys.readouterr().out
    assert "warning: forgetting is not measured" in out and "Forgetting was not measured" in out
    assert not read_config(tmp_path / "b").streams


# --- What goes on -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def several(words, tmp_path_factory):
    """A run with two streams of text, whose rate of masks moves; frozen in part, with averages."""

    def make(out):
        recipe = toy.recipe(words, out, "masked")
        data = recipe.pop("data")
        masked = {**recipe.pop("objective"), "rate": {"points": [[0, 0.3], [2, 0.2]]}}
        objectives = {"first": {"name": "passages", "shortest": 2}, "second": masked}
        recipe["model"]["pooler"] = False
        recipe["streams"] = {n: {"objective": o, "data": data} for n, o in objectives.items()}
        recipe |= {"train": {"steps": 1, "ema": 0.9}, "freezing": {"freeze": ["embeddings/**"]}}
        train_run(load_config([recipe], ("optimizer.schedule.warmup=0",)), lambda text: None)

    return toy.shared(tmp_path_factory, "adapt-several", make)


def test_of_several_streams_that_differ_one_is_named(several, words, tmp_path, capsys):
    given = (several, "--out", tmp_path / "out", "--store", words)
    said = refused(capsys, *given)
    assert "first (passages), second (masked_lm)" in said and "--stream first" in said
    assert "one of first, second" in refused(capsys, *given, "--stream", "third")


def test_what_the_old_run_had_and_the_new_one_has_not_is_told(several, words, tmp_path):
    asked = {"run": several, "out": tmp_path / "out", "store": str(words)}
    planned = adapt.planned_of(Request(**asked, stream="second"))
    new = planned.config.streams[NEW].objective
    assert (new.name, new.rate) == ("masked_lm", 0.2)  # type: ignore[attr-defined]
    assert planned.notes == (
        f"note: {several} goes on with its stream second alone, without first",
        f"note: what moved over the steps of {several} stays where it ended: objective.rate=0.2",
        f"note: {several} had freezing, train.ema; not taken over, give them again where they are "
        "wanted",
    )
    changes = ("objective.rate=0.4", "train.ema=0.5", "freezing.freeze=[pooler/**]")
    planned = adapt.planned_of(Request(**asked, stream="second", changes=changes))
    assert planned.config.streams[NEW].objective.rate == 0.4  # type: ignore[attr-defined]
    assert not any("had" in note for note in planned.notes)
    assert adapt.planned_of(Request(**asked, stream="first")).notes[0].endswith("without second")


def test_streams_that_differ_in_their_text_alone_are_one():
    config = load_config([toy.recipe_of("masked", Path("a"), Path("out"), 40)])
    stream = config.all_streams[""]
    other = dataclasses.replace(stream, data=stream.data.of_store("b"), weight=0.5)
    run = dataclasses.replace(
        config, objective=None, data=None, streams={"one": stream, "two": other}
    )
    assert old_stream(run) == ("one", stream) and old_stream(run, "two") == ("two", other)


def test_a_hugging_face_directory_is_adapted_with_a_store_to_replay(
    masked, words, whole, tmp_path, capsys
):
    """The store to replay was prepared with the beginning of its tokenizer."""
    assert cli.main(["export", str(whole), str(tmp_path / "hf"), "--step", "last"]) == 0
    store = whole.with_name(f"{whole.name}-data") / "store"
    given = ("--store", store, "--replay", words, *QUICK, "train.steps=2", "data.batch_size=8")
    record = adapted(tmp_path / "hf", tmp_path / "out", *given, "data.sequence_length=16")
    assert record["from"]["run"] == str(tmp_path / "out-data" / "base")
    assert record["replay"] == pytest.approx(0.2)
    assert record["pieces"] == {"before": 150, "after": 150}
    said = capsys.readouterr().out
    assert f"{words} was prepared with 130 of the tokenizer's 150 pieces" in said
    assert "it rises to 0.0001 (optimizer.learning_rate)" in said


def test_the_configuration_is_printed_and_nothing_trained(llama, corpus, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(llama), "--out", str(out), "--corpus", str(corpus), "data.batch_size=4"]
    assert cli.main(["adapt", *arguments, *ONE_WORKER, "--print-config"]) == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    config = load_config([tmp_path / "config.yaml"])
    assert [stream.data.batch_size for stream in config.streams.values()] == [4, 4]
    assert [float(stream.weight) for stream in config.streams.values()] == [1, 0]  # type: ignore
    assert not out.exists()


def test_an_adapted_run_opens_from_its_last_step(whole):
    assert open_run(whole, "last").step == 4
    assert Path(whole / "ledger.json").is_file()

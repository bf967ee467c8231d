"""Later families in whole runs: pretrained, exported, fine-tuned from that, exported again."""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest
from jax.interpreters import partial_eval

pytest.importorskip("torch", reason="exported classifiers are loaded with torch")

import relations  # noqa: E402
import tiny  # noqa: E402
import toy  # noqa: E402
import transformers  # noqa: E402
import tuned  # noqa: E402

from jaxssl.commands import export, predict  # noqa: E402
from jaxssl.core.errors import UserError  # noqa: E402
from jaxssl.core.names import flatten  # noqa: E402
from jaxssl.data.tables.table import Table  # noqa: E402
from jaxssl.models.bert import BertConfig, DistilBertConfig, RobertaConfig  # noqa: E402
from jaxssl.models.electra import ElectraConfig  # noqa: E402
from jaxssl.models.gpt2 import Gpt2Config  # noqa: E402
from jaxssl.models.layers import unbox  # noqa: E402
from jaxssl.models.llama import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config  # noqa: E402
from jaxssl.models.model import Model  # noqa: E402
from jaxssl.models.modernbert import ModernBertConfig  # noqa: E402
from jaxssl.objectives.causal_lm import CausalLm  # noqa: E402
from jaxssl.objectives.masked_lm import MaskedLm  # noqa: E402
from jaxssl.program.gradients import make_loss  # noqa: E402
from jaxssl.run.build import fitted  # noqa: E402
from jaxssl.run.recipes import load_config  # noqa: E402
from jaxssl.run.tokenizers import make_vocabulary  # noqa: E402
from jaxssl.run.train import train_run  # noqa: E402
from jaxssl.tasks.answer.task import Answer  # noqa: E402
from jaxssl.tasks.classify import Classify  # noqa: E402
from jaxssl.tasks.regress import Regress  # noqa: E402
from jaxssl.tasks.relate.task import Relate  # noqa: E402
from jaxssl.tasks.tag.task import Tag  # noqa: E402

TEXTS = ["the old man sees a bird near a river", "a dog", "my sister sees a bird at home"]

SIZES = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24}
FAMILIES = {
    "modernbert": {"local_window": 2, "global_every": 2},
    "electra": {"embedding_size": 8},
    "mistral": {"num_kv_heads": 1, "window": 6},
}


@pytest.mark.parametrize(
    "name",
    [x if x == "modernbert" else pytest.param(x, marks=pytest.mark.slow) for x in FAMILIES],
)
def test_a_family_is_pretrained_exported_and_fine_tuned(name, words, byte_store, table, tmp_path):
    masked = name != "mistral"
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
    config = load_config([recipe], overrides)
    train_run(config, lambda text: None)
    losses = [row["loss"] for row in toy.rows_of(tmp_path / "run", "train")]
    assert losses[-1] < losses[0] and np.isfinite(losses).all()

    export.export(tmp_path / "run", tmp_path / "exported")
    tuning = tuned.configured(
        tmp_path / "exported",
        table,
        tmp_path / "tuned",
        "freezing={preset: top, top: 1}",
        "train.epochs=1",
        "task.pooling=auto",
    )
    assert tuning.model.name == name
    train_run(tuning, lambda text: None)
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

    export.export(tmp_path / "tuned", tmp_path / "classifier")
    pipeline: Any = transformers.pipeline(
        "text-classification", model=str(tmp_path / "classifier"), top_k=None
    )
    (tmp_path / "texts.csv").write_text("text\n" + "\n".join(TEXTS) + "\n")
    predict.predict(tmp_path / "tuned", str(tmp_path / "texts.csv"), tmp_path / "said.jsonl")
    lines = (tmp_path / "said.jsonl").read_text().splitlines()
    for line, theirs in zip(lines, pipeline(TEXTS, batch_size=3), strict=True):
        probabilities = {each["label"]: each["score"] for each in theirs}
        assert json.loads(line)["probabilities"] == pytest.approx(probabilities, abs=1e-5)


WHOLE = {
    "bert": BertConfig,
    "roberta": RobertaConfig,
    "distilbert": DistilBertConfig,
    "electra": ElectraConfig,
    "modernbert": ModernBertConfig,
    "gpt2": Gpt2Config,
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}
GROUPED = {"llama", "mistral", "qwen2", "qwen3"}


def labelled(task, tokenizer):
    """(The task with its labels, a batch of four of its rows)."""
    texts, places = ["the cat sees a dog", "a dog", "my sister", "every bird"], list("abcd")
    questions = {
        "question": ["who sees a dog?"] * 4,
        "context": texts,
        "answers": [
            [{"text": text.split()[1], "answer_start": text.find(" ") + 1}] for text in texts
        ],
        "id": places,
    }
    columns = {
        "classify": {"text": texts, "label": ["x", "y", "x", "y"]},
        "regress": {"text": texts, "label": ["1", "2", "3", "4"]},
        "tag": {
            "words": [text.split() for text in texts],
            "tags": [["B-A", *["O"] * (len(text.split()) - 1)] for text in texts],
        },
        "relate": relations.sightings(4),
        "answer": questions,
    }[task.name]
    table = Table(columns, places)
    task = task.learn_labels(table)
    encoded = task.encode(table, tokenizer, 32, "train")
    return task, encoded.examples.rows(np.arange(4), 32, 0)


TASKS = (
    Classify(),
    Regress(),
    Tag(subword="last"),
    Relate(),
    Answer(max_question=8, overlap=4),
)


@pytest.mark.parametrize("task", [None, *TASKS], ids=lambda task: getattr(task, "name", "pretrain"))
@pytest.mark.parametrize("family", WHOLE)
def test_every_family_takes_every_task_and_all_its_parameters_count(family, task):
    tokenizer = relations.tokenizer("wordpiece")
    vocabulary = make_vocabulary(tokenizer, 320)
    sizes = {**SIZES, "vocab_size": 320, "max_positions": 32}
    config = WHOLE[family](**sizes, **({"num_kv_heads": 1} if family in GROUPED else {}))
    if task is None:
        objective = CausalLm() if config.causal else MaskedLm()
        config = dataclasses.replace(config, pooler=False) if config.body().pooler else config
        batch = tiny.rows([[range(6, 30)]] * 4, length=32)
    else:
        objective, batch = labelled(task, tokenizer)
        config = fitted(config, [objective])
    if config.causal and objective.name == "relate":
        with pytest.raises(UserError, match="seen nothing"):
            objective.check(config, vocabulary)
        return
    model = Model(config, objective.heads)
    objective.check(config, vocabulary)
    params = unbox(model.abstract())
    batch = tiny.corrupted(objective, {**batch, "epoch": np.zeros(4, np.int32)}, 0, vocabulary)
    loss = lambda params: make_loss(model, objective)(params, batch, jax.random.key(0))[0]
    jaxpr = jax.make_jaxpr(loss)(params).jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True])
    assert [name for name, is_used in zip(flatten(params), used, strict=True) if not is_used] == []

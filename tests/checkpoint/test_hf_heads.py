"""Heads of tasks against the classes of `transformers` that have them."""

import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the heads are compared with torch's")

import hf_models  # noqa: E402

from jaxssl.checkpoint.hf.directory import TASK_SCOPES, open_model  # noqa: E402
from jaxssl.checkpoint.hf.safetensors import Reader, open_file  # noqa: E402
from jaxssl.checkpoint.hf.writing import write_directory  # noqa: E402
from jaxssl.commands.imported_task import task_of  # noqa: E402
from jaxssl.core.errors import UserError  # noqa: E402
from jaxssl.core.names import flatten, unflatten  # noqa: E402
from jaxssl.models.layers import unbox  # noqa: E402
from jaxssl.tasks.answer.task import Answer  # noqa: E402
from jaxssl.tasks.classify import Classify  # noqa: E402
from jaxssl.tasks.pooling import pooled  # noqa: E402
from jaxssl.tasks.regress import Regress  # noqa: E402
from jaxssl.tasks.tag.task import Tag  # noqa: E402

CLASSES = {
    "row": "ForSequenceClassification",
    "token": "ForTokenClassification",
    "span": "ForQuestionAnswering",
    "replaced_tokens": "ForPreTraining",
}
TASKS = ("row", "token", "span")
FAMILIES = {
    "bert": "bert",
    "roberta": "roberta",
    "distilbert": "distilbert",
    "electra": "electra",
    "modernbert": "modernbert",
    "modernbert, mean": "modernbert",
    "gpt2": "gpt2",
    "llama": "llama, grouped",
    "mistral": "mistral, window",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
LABELS = 4


def opened(name, head, path, **changes):
    """(torch model, what was read, our parameters)."""
    changes = {**changes, "pad_token_id": 1 if name == "roberta" else 0}
    if name == "modernbert, mean":
        changes["classifier_pooling"] = "mean"
    if head in ("row", "token"):
        changes = {"num_labels": LABELS, **changes}
    reference = hf_models.reference(FAMILIES[name], CLASSES[head], **changes)
    found = open_model(hf_models.save(reference, path))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = {
        key: found.read(key, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here))
        for key, leaf in flatten(unbox(found.model.abstract())).items()
    }
    return reference, found, unflatten(params)


@pytest.mark.parametrize("head", TASKS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_gives_the_logits_of_its_class_and_is_written_back(name, head, tmp_path):
    reference, found, params = opened(name, head, tmp_path / "theirs")
    assert [h for h in found.heads if h in TASK_SCOPES] == [head] and not found.leftovers
    rows = hf_models.batch("right")
    real = rows["segment_ids"] > 0
    with torch.no_grad():
        inputs = hf_models.torch_inputs(reference, rows)
        out = reference(**inputs, output_hidden_states=True)
    hidden, task = out.hidden_states[-1].numpy(), task_of(found)
    if head == "row":
        assert isinstance(task, Classify)
        vectors = pooled(task.pooling, found.model, params, hidden, rows)
        np.testing.assert_allclose(
            found.model.head(params, head, vectors), out.logits, rtol=1e-5, atol=1e-5
        )
    else:
        ours = found.model.head(params, head, hidden)
        theirs = (
            out.logits if head == "token" else torch.stack([out.start_logits, out.end_logits], -1)
        )
        np.testing.assert_allclose(ours[real], theirs[real], rtol=1e-5, atol=1e-5)

    check_written_back(reference, found, params, head, tmp_path)


def check_written_back(reference, found, params, head, tmp_path):
    """That the files have the bits of `tmp_path / "theirs"`, under the name of the class."""
    again = tmp_path / "again"
    again.mkdir()
    parameters = {key: [value] for key, value in flatten(params).items()}
    name = write_directory(again, found.config, {head: head}, parameters, dtype="float32", more={})
    assert name == type(reference).__name__
    ours, theirs = (open_file(d / "model.safetensors") for d in (again, tmp_path / "theirs"))
    reader = Reader()
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert np.array_equal(reader.view(tensor), reader.view(theirs[key])), key


def test_a_discriminator_gives_the_logits_of_its_class_and_is_written_back(tmp_path):
    reference, found, params = opened("electra", "replaced_tokens", tmp_path / "theirs")
    assert found.heads == ("replaced_tokens",) and not found.leftovers and task_of(found) is None
    rows = hf_models.batch("right")
    real = rows["segment_ids"] > 0
    with torch.no_grad():
        inputs = hf_models.torch_inputs(reference, rows)
        out = reference(**inputs, output_hidden_states=True)
    ours = found.model.head(params, "replaced_tokens", out.hidden_states[-1].numpy())
    assert ours.shape == (*real.shape, 1)
    np.testing.assert_allclose(ours[..., 0][real], out.logits[real], rtol=1e-5, atol=1e-5)
    check_written_back(reference, found, params, "replaced_tokens", tmp_path)


def test_roberta_classifiers_do_not_use_a_pooler_that_is_in_the_file(tmp_path):
    from safetensors.numpy import load_file, save_file

    opened("roberta", "row", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    width = tensors["classifier.dense.bias"].shape[0]
    tensors["roberta.pooler.dense.weight"] = np.ones((width, width), np.float32)
    tensors["roberta.pooler.dense.bias"] = np.ones(width, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    found = open_model(tmp_path)
    assert found.config.body().pooler and not found.leftovers
    hidden = np.arange(2 * 3 * width, dtype=np.float32).reshape(2, 3, width)
    rows = {"segment_ids": np.ones((2, 3), np.int32)}
    assert np.array_equal(pooled("cls", found.model, {}, hidden, rows), hidden[:, 0])


def test_bert_classifiers_without_their_pooler_are_refused(tmp_path):
    from safetensors.numpy import load_file, save_file

    opened("bert", "row", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if "pooler" not in name}
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"pooler\.dense\.weight"):
        open_model(tmp_path)


def test_older_readers_find_what_newer_ones_do(tmp_path):
    for name in ("llama, llama3", "llama, linear", "qwen3"):
        found = open_model(hf_models.save(hf_models.reference(name), tmp_path / name))
        written = found.family.write_config(found.config)
        newer = written.pop("rope_parameters")
        assert (
            found.family.read_config(
                {**written, "model_type": found.family.model_type}, frozenset(found.tensors)
            )
            == found.config
        )
        assert written["rope_theta"] == newer["rope_theta"]


@pytest.mark.parametrize(
    ("head", "changes", "task"),
    [
        ("row", {}, Classify(labels=("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"), pooling="cls")),
        (
            "row",
            {
                "id2label": {0: "b", 1: "a", 2: "d", 3: "c"},
                "problem_type": "multi_label_classification",
            },
            Classify(labels=("b", "a", "d", "c"), multi_label=True, pooling="cls"),
        ),
        ("row", {"num_labels": 1}, Regress(pooling="cls")),
        (
            "token",
            {"id2label": {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}},
            Tag(labels=("O", "B-PER", "I-PER", "B-LOC")),
        ),
        (
            "token",
            {"id2label": {0: "O", 1: "B-PER", 2: "E-PER", 3: "S-PER"}},
            Tag(labels=("O", "B-PER", "E-PER", "S-PER"), scheme="BIOES"),
        ),
        (
            "token",
            {"id2label": {0: "O", 1: "NOUN", 2: "VERB", 3: "X"}},
            Tag(labels=("O", "NOUN", "VERB", "X"), scheme="none"),
        ),
        ("span", {}, Answer(nullable=False)),
    ],
)
def test_a_head_is_a_task_with_the_labels_of_its_configuration(head, changes, task, tmp_path):
    reference = hf_models.reference("bert", CLASSES[head], num_labels=2 if head == "span" else 4)
    hf_models.save(reference, tmp_path)
    file = tmp_path / "config.json"
    given = json.loads(file.read_text())
    if "num_labels" in changes:
        from safetensors.numpy import load_file, save_file

        tensors = load_file(tmp_path / "model.safetensors")
        tensors["classifier.weight"] = tensors["classifier.weight"][:1]
        tensors["classifier.bias"] = tensors["classifier.bias"][:1]
        save_file(tensors, tmp_path / "model.safetensors")
    file.write_text(json.dumps({**given, **changes}))
    assert task_of(open_model(tmp_path)) == task


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}}, "4: 'e'"),
        (
            {"id2label": {0: "a", 1: "b", 2: "c", 3: "d"}, "label2id": {"a": 1}},
            "id2label has 'b' for 1, label2id has 'a'",
        ),
    ],
)
def test_labels_that_contradict_the_head_or_each_other_are_refused(changes, message, tmp_path):
    hf_models.save(hf_models.reference("bert", CLASSES["row"], num_labels=4), tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(UserError, match=message):
        task_of(open_model(tmp_path))

"""What `config.json` says of a task's head, as a task of ours."""

from collections.abc import Mapping
from typing import Any

from jaxssl.checkpoint.hf.directory import CONFIG, HfDirectory
from jaxssl.core.errors import UserError
from jaxssl.models.model import ModelConfig
from jaxssl.tasks.answer.task import Answer
from jaxssl.tasks.base import Task
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.pooling import PoolingChoice
from jaxssl.tasks.regress import Regress
from jaxssl.tasks.tag.task import Tag


def task_of(found: HfDirectory) -> Task | None:
    """The task whose head a directory has, or None.

    What its training data called things is not there: columns have their usual names.
    """
    if "row" in found.heads:
        return _row_task(found)
    if "token" in found.heads:
        labels = _labels(found, "token")
        subword = "last" if found.config.causal else "first"
        return Tag(labels=labels, scheme=_scheme(labels), subword=subword)
    return Answer(nullable=False) if "span" in found.heads else None


def _row_task(found: HfDirectory) -> Classify | Regress:
    labels, kind = _labels(found, "row"), found.given.get("problem_type")
    how = pooling(found.config, found.given)
    if kind == "regression" or (kind is None and len(labels) == 1):
        return Regress(pooling=how)
    return Classify(labels=labels, multi_label=kind == "multi_label_classification", pooling=how)


def pooling(config: ModelConfig, given: dict[str, Any] | Any) -> PoolingChoice:
    """What a family's class takes for a whole text."""
    if config.name == "modernbert":
        return given.get("classifier_pooling", "cls")
    return "last" if config.causal else "cls"


def _labels(found: HfDirectory, head: str) -> tuple[str, ...]:
    """The labels in the order of their numbers; `transformers` writes LABEL_0 where none were
    given."""
    size = found.tensors[found.pairs[f"{head}/output/kernel"].theirs].shape[0]
    names = {int(number): str(label) for number, label in _names(found).items()}
    _check_labels(found, names, size)
    return tuple(names.get(number, f"LABEL_{number}") for number in range(size))


def _check_labels(found: HfDirectory, names: Mapping[int, str], size: int) -> None:
    """Refuses labels that the head has no output for, or whose two lists contradict each other.
    `LABEL_0` and so on, which `transformers` fills a list with, says nothing."""
    told = {number: name for number, name in names.items() if not name.startswith("LABEL_")}
    if beyond := [number for number in told if not 0 <= number < size]:
        raise UserError(
            "a label has no output in the head",
            where=f"{found.path / CONFIG}, id2label",
            expected=f"numbers from 0 to {size - 1}, as the head has {size} outputs",
            got=f"{beyond[0]}: {names[beyond[0]]!r}",
        )
    for label, number in (found.given.get("label2id") or {}).items():
        other = names.get(int(number), label)
        if other != label and not label.startswith("LABEL_"):
            raise UserError(
                "two fields that say one thing contradict each other",
                where=f"{found.path / CONFIG}, id2label and label2id",
                expected="the same labels in both, or one of them alone",
                got=f"id2label has {other!r} for {number}, label2id has {label!r}",
                fix="delete the one that is wrong",
            )


def _names(found: HfDirectory) -> dict[Any, Any]:
    return found.given.get("id2label") or {}


def _scheme(labels: tuple[str, ...]) -> Any:
    """How tags are meant, by their looks: BIOES, IOB2, or each by itself."""
    marks = {label[0] for label in labels if label[1:2] == "-"}
    others = {label for label in labels if label[1:2] != "-"}
    if not marks or others - {"O"} or not marks <= set("BIOES"):
        return "none"
    return "BIOES" if marks & set("ES") else "IOB2"

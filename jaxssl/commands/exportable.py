"""Which class of `transformers` a run's model is, if any."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxssl.checkpoint.hf.directory import CONFIG
from jaxssl.checkpoint.hf.families import family_of
from jaxssl.checkpoint.hf.writing import architecture_of
from jaxssl.commands.imported_task import pooling
from jaxssl.core.errors import UserError
from jaxssl.data.tokenizer.export import check_written, write_tokenizer
from jaxssl.data.tokenizer.loading import with_tokens
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.models.bert import RobertaConfig
from jaxssl.models.heads import HEADS, Head
from jaxssl.models.model import ModelConfig
from jaxssl.tasks.answer.task import Answer
from jaxssl.tasks.base import Task
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.pooling import PoolingChoice, resolve
from jaxssl.tasks.regress import Regress
from jaxssl.tasks.seq2seq import Seq2seq
from jaxssl.tasks.similarity import Similarity
from jaxssl.tasks.tag.task import Tag

PAD = "<pad>"


@dataclass(frozen=True)
class HfClass:
    """A class of `transformers`.

    Attributes:
      name: of the class.
      heads: {a head's name there: its name here}.
      fields: what `config.json` says of them.
      ends: whether its texts end with the token that ends a document, as what an encoder-decoder
        that was tuned reads.
      frames: whether its texts come with the special tokens of rows.
    """

    name: str
    heads: Mapping[str, str]
    fields: Mapping[str, Any] = field(default_factory=dict)
    ends: bool = False

    @property
    def frames(self) -> bool:
        return "causal_lm" not in self.heads and bool(self.heads)


def hf_class(
    model: ModelConfig, heads: Sequence[Head], task: Task | None, tokenizer: Tokenizer
) -> HfClass:
    """The class for a body with these heads. That of a task has no language model's beside it.

    Raises:
      UserError: there is none; says what would have one.
    """
    if task is None or task.writes or isinstance(task, Similarity):  # whose vectors have no head
        # A head that no class of the family has, such as a discriminator's on BERT, is left out.
        family = {name for each in family_of(model).architectures.values() for name in each.heads}
        known = HEADS.keys() & family
        found = {head.name: head.name for head in heads if head.name in known}
        fields: Mapping[str, Any] = {}
        if isinstance(task, Seq2seq):
            _check_prefix(task, model)
        if isinstance(task, Seq2seq) and task.prompt:
            fields = {"task_specific_params": {task.name: {"prefix": task.prompt}}}
    else:
        kind, fields = _of_task(task, model)
        found = {kind: task.head_name}
    name = architecture_of(model, list(found))
    family_of(model).write_config(model)  # refuses what the family does not have
    _check_positions(model, tokenizer)
    return HfClass(name, found, fields, isinstance(task, Seq2seq) and model.encoder_decoder)


def check_exportable(
    model: ModelConfig, heads: Sequence[Head], task: Task | None, tokenizer: Tokenizer
) -> HfClass:
    """The class that a run's model is, after a look that its tokenizer can be written for it.

    Raises:
      UserError: there is none, or `transformers` would read the tokenizer as another.
    """
    found = hf_class(model, heads, task, tokenizer)
    larger, family = with_padding(found, model, tokenizer), family_of(model)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_tokenizer_for(found, model, larger, directory)
        if family.replaces_tokenizers:  # only then is it worth the seconds that transformers takes
            text = json.dumps({"model_type": family.model_type})
            (directory / CONFIG).write_text(text, encoding="utf-8")
            check_written(larger, directory, frames=found.frames, ends=found.ends)
    return found


def with_padding(found: HfClass, model: ModelConfig, tokenizer: Tokenizer) -> Tokenizer:
    """With a padding token, if a causal classifier has none but the end token: those of
    `transformers` read the last token that is no padding, and ours is the end.

    Raises:
      UserError: the tokenizer takes none.
    """
    pad = tokenizer.special_ids["pad"]
    if "row" not in found.heads or not model.causal:
        return tokenizer
    if pad is not None and pad not in tokenizer.frame(False)[2]:
        return tokenizer
    return with_tokens(tokenizer, [PAD], role="pad")


def write_tokenizer_for(
    found: HfClass, model: ModelConfig, tokenizer: Tokenizer, directory: Path
) -> None:
    """Writes the tokenizer's files as a class and a model need them."""
    write_tokenizer(
        tokenizer,
        directory,
        frames=found.frames,
        has_types=model.body().type_rows > 1,
        max_length=model.max_positions,
        ends=found.ends,
    )


def _of_task(task: Task, model: ModelConfig) -> tuple[str, dict[str, Any]]:
    """A task's head there, and what `config.json` says of it."""
    if isinstance(task, Classify | Regress):
        architecture_of(model, ["row"])  # where there is no class, no pooling would help
        fields = _check_pooling(task.pooling, model)
        kind, labels = "regression", ("LABEL_0",)
        if isinstance(task, Classify):
            kind = ("multi" if task.multi_label else "single") + "_label_classification"
            labels = task.labels
        return "row", {**fields, **_labels(labels), "problem_type": kind}
    if isinstance(task, Tag):
        return "token", _labels(task.labels)
    if isinstance(task, Answer):
        return "span", {}
    raise UserError(
        "transformers has no class for this task",
        where="task.name",
        expected="classify, regress, tag, answer, similarity, seq2seq or chat",
        got=task.name,
    )


def _check_prefix(task: Seq2seq, model: ModelConfig) -> None:
    """Refuses a causal model whose texts were seen whole: there each token sees those before it."""
    if not model.encoder_decoder and task.prefix_visible:
        raise UserError(
            "transformers' causal models do not see a text whole before they write",
            where="task.prefix_visible",
            expected="false, of a model of one stack",
            got="true",
            fix="fine-tune with task.prefix_visible=false",
        )


def _labels(labels: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def _check_pooling(choice: PoolingChoice, config: ModelConfig) -> dict[str, Any]:
    """Refuses a pooling that the family's class does not do; what `config.json` says of it."""
    how = resolve(choice, config)
    if config.name == "modernbert" and how in ("cls", "mean"):
        return {"classifier_pooling": how}
    if config.name == "bert" and how == "cls" and not config.body().pooler:
        raise UserError(
            "transformers' class of this family has a pooler, and this model none",
            where="model.pooler",
            expected="true",
            got="false",
            fix="fine-tune with model.pooler=true 'init.fresh=[\"pooler/**\"]'",
        )
    wanted = pooling(config, {})
    if how != wanted:
        raise UserError(
            "transformers' class of this family takes something else for a whole text",
            where="task.pooling",
            expected=wanted,
            got=how,
            fix=f"fine-tune with task.pooling={wanted}",
        )
    return {}


def _check_positions(config: ModelConfig, tokenizer: Tokenizer) -> None:
    """RoBERTa's class counts positions from the padding token's id."""
    pad = tokenizer.special_ids["pad"]
    if isinstance(config, RobertaConfig) and pad != config.position_offset - 1:
        raise UserError(
            "transformers' class of this family counts positions from the padding token's id",
            where="model.position_offset",
            expected=f"{pad} + 1, one more than the tokenizer's padding token"
            if pad is not None
            else "a tokenizer with a padding token",
            got=config.position_offset,
            fix="train with that offset",
        )

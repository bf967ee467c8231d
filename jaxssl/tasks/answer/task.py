"""Extractive question answering: the span of a context that answers a question, or none."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.bounds import check_at_least, check_finite, check_share
from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params
from jaxssl.data.tables.table import Table
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.models.heads import LabelHead
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Outputs, Sums
from jaxssl.ops.label_losses import softmax_loss
from jaxssl.ops.spans import best_spans
from jaxssl.scores import tallies
from jaxssl.tasks.answer.notes import notes
from jaxssl.tasks.answer.questions import read_answers, read_questions
from jaxssl.tasks.answer.spans import answered, join_windows
from jaxssl.tasks.answer.windows import Layout, Window, encode_questions, join_rows
from jaxssl.tasks.base import Encoded, Task

NEVER = -1e9
"""Logit of a position where no span may start or end: finite, so that 0 * NEVER is 0."""


@dataclass(frozen=True, kw_only=True)
class Answer(Task):
    """Find the words of a context that answer a question."""

    name: Literal["answer"] = "answer"
    """The task."""
    question: str = "question"
    """Column of the question."""
    context: str = "context"
    """Column of the text that the answer stands in."""
    label: str = "answers"
    """Column of the right answers, as SQuAD has them: {"text": [...], "answer_start": [...]},
    starts in characters. The first is learnt, the best match of all counts in scores."""
    id: str | None = "id"
    """Column of the questions' names, unlike each other; null numbers them from 0."""
    nullable: bool | None = None
    """A question may have no answer (SQuAD 2.0); null finds out from the training split. It also
    decides the scores: those of SQuAD 2.0's script if true, of 1.1's if false."""
    null_threshold: float = 0.0
    """Answer "" where the score of "no answer" is ahead of the best span's by more than this.
    `best_f1_thresh` of a validation is the best one for its split."""
    max_question: int = 64
    """Tokens of a question; what is longer loses its end, and that is said."""
    overlap: int = 128
    """Tokens that a window of a long context shares with the next: `doc_stride` of Hugging Face's
    scripts. BERT's `doc_stride` is the step, data.max_length less the question, less this."""
    max_answer_tokens: int = 30
    """Tokens of the longest answer that is predicted."""
    n_best: int = 20
    """How many answers to tell, and to keep of each window."""
    dropout: float = 0.0
    """On what goes into the head; BERT has none."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "max_question", "max_answer_tokens", "n_best")
        check_at_least(0, self, "overlap")
        check_share(self, "dropout")
        check_finite(self, "null_threshold")
        if self.nullable is False and self.null_threshold:
            raise UserError(
                "a threshold for no answer, where every question has one",
                where="null_threshold",
                expected="0, or nullable=true",
                got=self.null_threshold,
            )

    @property
    def metric(self) -> str:
        """The mean F1 of answers."""
        return "f1"

    @property
    def text_columns(self) -> Mapping[str, str]:
        """Those of both texts."""
        return {"task.question": self.question, "task.context": self.context}

    def needed_columns(self, labelled: bool) -> Mapping[str, str]:
        """Those, the answers, and the names of the questions if they have any."""
        names = {} if self.id is None else {"task.id": self.id}
        return {**super().needed_columns(labelled), **names}

    @property
    def heads(self) -> tuple[LabelHead, ...]:
        """Two numbers a token: a span starts, a span ends."""
        return (LabelHead(name=self.head_name, scope="token", size=2, dropout=self.dropout),)

    # --- On the host ---

    @property
    def about(self) -> str:
        """What is told of the labels at the start."""
        return "a span of each context; " + (
            f"a question may have no answer, null_threshold={self.null_threshold:g}"
            if self.nullable
            else "every question has an answer"
        )

    def keeps_pooler(self, model: ModelConfig) -> bool:
        """No: spans are of tokens."""
        return False

    def learn_labels(self, train: Table) -> "Answer":
        """Finds out whether questions may have no answer, where that is not given."""
        answers = read_answers(train, self.label)
        if not any(answers):
            raise UserError(
                "there is nothing to learn",
                where=f"task.label={self.label}",
                expected="questions with answers in the training split",
                got=f"{len(answers)} questions without one",
            )
        if self.nullable is not None:
            return self
        return dataclasses.replace(self, nullable=not all(answers))

    def encode(
        self,
        table: Table,
        tokenizer: Tokenizer,
        max_length: int,
        split: str,
        *,
        labelled: bool = True,
    ) -> Encoded:
        """A row for each window of a question's context; see `join_rows`."""
        questions = read_questions(
            table,
            id=self.id,
            question=self.question,
            context=self.context,
            answers=self.label if labelled else None,
        )
        without = next((q for q in questions if q.answers == ()), None)
        if without is not None and not self.nullable:
            raise UserError(
                "a question without an answer",
                where=f"{without.place}, question {without.id!r}",
                expected="an answer to every question, as in the training split",
                got="none",
                fix="set task.nullable=true to learn that there may be none",
            )
        layout = Layout(max_length, self.max_question, self.overlap)
        asked, cut = encode_questions(questions, tokenizer, layout)
        examples, references = join_rows(asked, tokenizer)
        told = notes(
            asked,
            cut,
            split,
            max_question=self.max_question,
            overlap=self.overlap,
            max_answer_tokens=self.max_answer_tokens,
        )
        return Encoded(examples, references, told)

    def own_scores(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> dict[str, float]:
        """In percent, as the scripts print them: `exact_match` and `f1` of SQuAD 1.1, or, where a
        question may have no answer, all of SQuAD 2.0's: `exact` and `f1` at `null_threshold`, the
        same of questions with and without an answer, and `best_exact` and `best_f1` with the
        thresholds that give them. `questions_left_out` says how many had not all their windows."""
        from jaxssl.scores.squad import squad1_scores, squad_scores

        found, left_out = join_windows(predictions, references, n_best=1)
        given = {each.question.id: each.best for each in found}
        golds = {each.question.id: [g.text for g in each.question.answers or ()] for each in found}
        if self.nullable:
            no_answer = {each.question.id: each.no_answer for each in found}
            scores = squad_scores(given, golds, no_answer, threshold=self.null_threshold)
        else:
            scores = squad1_scores(given, golds)
        return {**scores, "questions_left_out": left_out} if left_out else scores

    def tallies(self, predictions: Mapping[str, np.ndarray], references: Any) -> np.ndarray:
        """F1 of each question and 1 [E, 2]."""
        from jaxssl.scores.squad import best, normalize_answer, token_f1

        rows = []
        for each in join_windows(predictions, references, n_best=1)[0]:
            golds = [gold.text for gold in each.question.answers or ()]
            if self.nullable and each.no_answer > self.null_threshold:
                rows.append((float(not golds), 1.0))
                continue
            if self.nullable:
                golds = [gold for gold in golds if normalize_answer(gold)] or [""]
            rows.append((best(token_f1, each.best, golds), 1.0))
        return np.array(rows)

    def identity(self, references: Any) -> list[Any]:
        """The questions with their contexts and answers."""
        asked = {window.question.id: window.question for window in references}
        return [(key, q.text, q.context, q.answers) for key, q in asked.items()]

    def from_tallies(self, sums: np.ndarray) -> np.ndarray:
        """The mean F1, in percent."""
        return 100 * tallies.share(sums)

    def outputs(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> list[dict[str, Any]]:
        """`id`, `answer`, `start`, `score`, `probability` and `n_best`; see `answered`."""
        found, _ = join_windows(predictions, references, self.n_best)
        return [answered(each, bool(self.nullable), self.null_threshold) for each in found]

    def majority_baseline(self, train: Any, references: Any) -> dict[str, np.ndarray]:
        """No answer, where there may be none; else the first words of the context, as many tokens
        as half of the answers learnt have at most."""
        rows: list[Window] = references
        lengths = [row.gold[1] - row.gold[0] + 1 for row in train if row.gold and not row.begin]
        longest = int(np.median(lengths)) if lengths else 1
        first = np.array([[row.first] for row in rows])
        ahead = self.null_threshold + 1 if self.nullable else 0.0
        return {
            "score": np.array([[-np.inf if row.begin else 0.0] for row in rows]),
            "start": first,
            "end": first + [[min(longest, len(row.spans)) - 1] for row in rows],
            "null": np.full(len(rows), ahead),
        }

    # --- On the device ---

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """The mean of the cross entropies of start and end, over the context and the position that
        stands for no answer, which is right in windows without the answer."""
        hidden, null = outputs["hidden"], _null_position(model, batch)
        position = jnp.arange(hidden.shape[1])
        allowed = _within(batch["context"], hidden) | (position == null[:, None])
        logits = model.head(params, self.head_name, hidden, key, batch.get("row"))
        logits = jnp.where(allowed[..., None], logits, NEVER).swapaxes(1, 2)  # [B, 2, T]
        real = batch["example_weights"]
        labels = jnp.where(batch["labels"] < 0, null[:, None], batch["labels"])
        labels = jnp.where(real[:, None] > 0, labels, 0)  # a row of padding may be shorter
        loss = jnp.sum(jnp.mean(softmax_loss(logits, labels), axis=-1) * real)
        hits = jnp.all(jnp.argmax(logits, axis=-1) == labels, axis=-1)
        metrics = {"accuracy/answer": (jnp.sum(hits * real), jnp.sum(real))}
        return Sums({"answer": loss}, metrics)

    def predict(
        self, model: Model, params: Params, outputs: Outputs, batch: Batch
    ) -> dict[str, jax.Array]:
        """The best spans of each row, `score`, `start` and `end` [B, n_best], and the score of no
        answer, `null` [B]. A span starts at a token that belongs to the row (BERT's rule: where it
        has most context) and ends within the window."""
        hidden = outputs["hidden"]
        logits = model.head(params, self.head_name, hidden)
        start, end = logits[..., 0], logits[..., 1]
        inside = _within(batch["context"], hidden)
        scores, first, last = best_spans(
            start,
            end,
            inside & _within(batch["owned"], hidden),
            inside,
            longest=self.max_answer_tokens,
            count=self.n_best,
        )
        at_null = jnp.take_along_axis(start + end, _null_position(model, batch)[:, None], axis=1)
        return {"score": scores, "start": first, "end": last, "null": at_null[:, 0]}


def _null_position(model: Model, batch: Batch) -> jax.Array:
    """[B]: the first token, or of a causal model the last one, which has seen the row."""
    length = jnp.sum(batch["segment_ids"] > 0, axis=1)
    return jnp.maximum(length - 1, 0) if model.config.causal else jnp.zeros_like(length)


def _within(bounds: jax.Array, hidden: jax.Array) -> jax.Array:
    """bool [B, T]: positions from bounds[:, 0] to before bounds[:, 1]."""
    position = jnp.arange(hidden.shape[1])
    return (position >= bounds[:, :1]) & (position < bounds[:, 1:])

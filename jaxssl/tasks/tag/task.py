"""Tagging: a label for each word, as for named entities and parts of speech."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.bounds import check_at_least, check_share
from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.data.tables.table import Table
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.data.word_windows import encode_windows
from jaxssl.models.heads import LabelHead
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Outputs, Sums
from jaxssl.ops.label_losses import softmax_loss
from jaxssl.scores import tallies
from jaxssl.scores.spans import Scheme, convert, entities, entity_scores
from jaxssl.tasks.base import Encoded, Task
from jaxssl.tasks.label_notes import label_notes
from jaxssl.tasks.labels import label_details
from jaxssl.tasks.tag import tagged, windows
from jaxssl.tasks.tag.tagged import OUTSIDE, AnyScheme
from jaxssl.tasks.tag.windows import Tagged
from jaxssl.tasks.words import Sentences, has_words, read_words

WORDS = "task.words"
"""The configuration's key of the column, for messages."""


@dataclass(frozen=True, kw_only=True)
class Tag(Task):
    """Tell the tag of each word of a sentence."""

    name: Literal["tag"] = "tag"
    """The task."""
    words: str = "words"
    """Column of the sentences: lists of words (in CSV as text: ["a", "b"]), or strings that are
    split at spaces, tabs and line ends."""
    label: str = "tags"
    """Column of the tags, as many as there are words."""
    scheme: AnyScheme = "IOB2"
    """How the tags are meant. `IOB1` (CoNLL-2003's own files), `IOB2` (BIO) and `BIOES` mark
    entities; `none` takes each tag by itself, as for parts of speech."""
    train_scheme: Scheme | None = None
    """The scheme that the model learns and predicts; null is `scheme`. What it predicts is turned
    back into `scheme`, and scored there; what is not legal is then read as conlleval does."""
    lenient: bool = False
    """Takes tags that are not legal in `scheme` as conlleval does; else they are an error."""
    labels: tuple[str, ...] = ()
    """The labels (in `train_scheme`) in the order of their numbers. Empty takes O and the tags of
    the training split, sorted; of entities, all tags of each type."""
    subword: Literal["first", "last"] = "first"
    """Which token of a word is labelled; the others have no label. `last` for causal models, whose
    first one has not seen the rest of the word."""
    stride: int | None = None
    """Of a sentence that is too long for a row: at most so many tokens of a window are words of the
    one before again. Every word is learnt and predicted once, in the window where the fewer of the
    tokens to its left and to its right are most. null is a quarter of a row."""
    dropout: float = 0.1
    """On what goes into the head."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all labels evenly."""
    focal: float = 0.0
    """Gamma of the focal loss: words that are right already count less. 0 is cross entropy."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(0, self, "stride", "focal")
        check_share(self, "dropout", "label_smoothing")
        if self.scheme == "none" and (self.train_scheme or self.lenient):
            raise UserError(
                "tags without a scheme have nothing to convert",
                where="train_scheme, lenient",
                expected="null and false, with scheme=none",
                got=(self.train_scheme, self.lenient),
            )

    @property
    def metric(self) -> str:
        """F1 of entities as conlleval counts it; without a scheme, accuracy."""
        return "accuracy" if self.scheme == "none" else "f1"

    @property
    def text_column(self) -> str | None:
        """That of the words: a string of them is split."""
        return self.words

    @property
    def text_columns(self) -> Mapping[str, str]:
        """That of the words."""
        return {WORDS: self.words}

    def has_text(self, value: Any) -> bool:
        """Whether there is a word."""
        return has_words(value)

    @property
    def heads(self) -> tuple[LabelHead, ...]:
        """One output for each label."""
        return (
            LabelHead(
                name=self.head_name,
                scope="token",
                size=max(1, len(self.labels)),
                dropout=self.dropout,
            ),
        )

    # --- On the host ---

    @property
    def about(self) -> str:
        """What is told of the labels at the start."""
        more = ", ..." if len(self.labels) > 8 else ""
        scheme = "" if self.scheme == "none" else f" in {self.train_scheme or self.scheme}"
        return f"{len(self.labels)} tags{scheme} ({', '.join(self.labels[:8])}{more})"

    def keeps_pooler(self, model: ModelConfig) -> bool:
        """No: every token counts."""
        return False

    def learn_labels(self, train: Table) -> "Tag":
        """Takes the labels from the training split where none are given."""
        tags = tagged.read_tags(train, self.label, read_words(train, self.words, WORDS))
        found = {tag for row in self._learnt(tags, train) for tag in row}
        scheme = self.train_scheme or self.scheme
        return dataclasses.replace(self, labels=tagged.labels_of(found, scheme, self.labels))

    def encode(
        self,
        table: Table,
        tokenizer: Tokenizer,
        max_length: int,
        split: str,
        *,
        labelled: bool = True,
    ) -> Encoded:
        """Rows of whole words. With labels, `labels` int32 and `label_weights` float32 travel with
        the tokens: 1 at one token of each word, in the one row that the word belongs to."""
        sentences = read_words(table, self.words, WORDS)
        tags = tagged.read_tags(table, self.label, sentences) if labelled else None
        rows = encode_windows(tokenizer, sentences, table.places, max_length, self.stride)
        column = rows.first if self.subword == "first" else rows.last
        examples = rows.examples
        if tags is not None:
            at = examples.starts[rows.row] + column
            labels = np.zeros(len(examples.tokens), np.int32)
            weights = np.zeros(len(examples.tokens), np.float32)
            learnt = self._learnt(tags, table)
            labels[at] = tagged.numbers_of(learnt, tags, self.labels, table, self.label)
            weights[at] = 1
            per_token = {"labels": (labels, 0.0), "label_weights": (weights, 0.0)}
            examples = dataclasses.replace(examples, per_token=per_token)
        notes = label_notes(self.labels) if labelled and split == "train" else ()
        references = windows.windows_of(rows, column, sentences, tags)
        return Encoded(examples, references, rows.notes(split) + notes)

    def _learnt(self, tags: Sentences, table: Table) -> Sentences:
        """The file's tags as the model learns them."""
        if self.scheme == "none":
            return tags
        target = self.train_scheme or self.scheme
        return tagged.in_scheme(tags, table, self.label, self.scheme, target, self.lenient)

    def own_scores(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> dict[str, float]:
        """Of entities: precision, recall and F1, as conlleval counts and strictly, all together and
        by type, and the accuracy of the tags. Without a scheme, those of a classification.

        All of the file's own tags and scheme. `left_out` is how many sentences were not scored,
        where not all of their windows were predicted.
        """
        sentences, left_out = windows.joined(predictions, references)
        if not sentences:
            raise UserError(
                "no sentence has all of its windows among the rows that were read",
                where="evaluation.batches",
                expected="more batches, or null for all of the split",
                got=f"{left_out} sentences in parts",
            )
        scores = self._of_labels(sentences) if self.scheme == "none" else self._of(sentences)
        return {**scores, **({"left_out": float(left_out)} if left_out else {})}

    def _of_labels(self, sentences: Sequence[Tagged]) -> dict[str, float]:
        from jaxssl.scores.classification import classification_scores

        return classification_scores(*self._numbers(sentences), self.labels)

    def _numbers(self, sentences: Sequence[Tagged]) -> tuple[np.ndarray, np.ndarray]:
        """Of all words: what was predicted, and what is right."""
        number = {label: i for i, label in enumerate(self.labels)}
        predicted = np.concatenate([sentence.numbers for sentence in sentences])
        return predicted, np.array([number[tag] for s in sentences for tag in s.gold or ()])

    def _of(self, sentences: Sequence[Tagged]) -> dict[str, float]:
        assert self.scheme != "none"
        predicted = [self._file_tags(sentence) for sentence in sentences]
        gold = [sentence.gold or [] for sentence in sentences]
        found = entity_scores(predicted, gold, self.scheme, "conlleval")
        strict = entity_scores(predicted, gold, self.scheme, "strict")
        names = ("precision", "recall", "f1")
        return {
            **{name: found[name] for name in names},
            **{f"strict_{name}": strict[name] for name in names},
            "accuracy": found["accuracy"],
            **{f"{n}/{kind}": x[n] for kind, x in found["types"].items() if kind for n in names},
        }

    def _file_tags(self, sentence: Tagged) -> list[str]:
        """What is predicted, in the file's scheme."""
        tags = [self.labels[number] for number in sentence.numbers]
        if self.scheme == "none" or self.train_scheme in (None, self.scheme):
            return tags
        return convert(tags, self.train_scheme, self.scheme, lenient=True)

    def tallies(self, predictions: Mapping[str, np.ndarray], references: Any) -> np.ndarray:
        """Right, predicted and given entities of each sentence [E, 3]; without a scheme, right and
        all words [E, 2]."""
        sentences, _ = windows.joined(predictions, references)
        return np.array([self._tallied(sentence) for sentence in sentences], np.float64)

    def _tallied(self, sentence: Tagged) -> tuple[int, ...]:
        tags, gold = self._file_tags(sentence), sentence.gold or []
        if self.scheme == "none":
            return sum(a == b for a, b in zip(tags, gold)), len(gold)
        found = set(entities(tags, self.scheme, lenient=True))
        given = set(entities(gold, self.scheme, lenient=True))
        return len(found & given), len(found), len(given)

    def identity(self, references: Any) -> list[Any]:
        """The sentences with their tags."""
        sentences = {window.sentence: (window.words, window.tags) for window in references}
        return list(sentences.items())

    def from_tallies(self, sums: np.ndarray) -> np.ndarray:
        """F1 of entities as conlleval counts it; without a scheme, accuracy."""
        return tallies.share(sums) if self.scheme == "none" else tallies.f1(sums)

    def details(self, predictions: Mapping[str, np.ndarray], references: Any) -> dict[str, Any]:
        """Precision, recall and F1 of each type of entity; without a scheme those of each tag, and
        the confusion matrix."""
        sentences, _ = windows.joined(predictions, references)
        if self.scheme == "none":
            return label_details(*self._numbers(sentences), self.labels)
        predicted = [self._file_tags(sentence) for sentence in sentences]
        gold = [sentence.gold or [] for sentence in sentences]
        types = entity_scores(predicted, gold, self.scheme, "conlleval")["types"]
        return {"per_class": [{"type": kind, **scores} for kind, scores in types.items()]}

    def outputs(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> list[dict[str, Any]]:
        """`words`, `tags` and `probabilities` (of the label that each tag was predicted as), and,
        with a scheme, `entities`: type, start and end (the word after it), text."""
        rows = []
        for sentence in windows.joined(predictions, references)[0]:
            words, tags = sentence.words, self._file_tags(sentence)
            row: dict[str, Any] = {"words": words, "tags": tags}
            if self.scheme != "none":
                row["entities"] = [
                    {"type": kind, "start": a, "end": b, "text": " ".join(words[a:b])}
                    for kind, a, b in entities(tags, self.scheme, lenient=True)
                ]
            rows.append({**row, "probabilities": sentence.probability.round(6).tolist()})
        return rows

    def majority_baseline(self, train: Any, references: Any) -> dict[str, np.ndarray]:
        """No entity anywhere; without a scheme, the most frequent tag."""
        tag = OUTSIDE
        if self.scheme == "none":
            tags = (w.tags[i] for w in train for i in w.index)
            tag = Counter(tags).most_common(1)[0][0]
        width = 1 + max(int(window.column.max(initial=0)) for window in references)
        shape = (len(references), width)
        return {"tag": np.full(shape, self.labels.index(tag)), "probability": np.ones(shape)}

    # --- On the device ---

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """Refuses the first token of a word of a causal model."""
        if model.causal and self.subword == "first":
            raise UserError(
                "the first token of a word has not seen the rest of it in a causal model",
                where="task.subword",
                expected="last",
                got="first",
            )

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The number of words."""
        return {"tag": jnp.sum(batch["label_weights"])}

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Cross entropy of the words' labels."""
        logits = model.head(params, self.head_name, outputs["hidden"], key, batch.get("row"))
        labels, weights = batch["labels"], batch["label_weights"]
        loss = softmax_loss(logits, labels, self.label_smoothing, self.focal)
        plain = softmax_loss(logits, labels)
        hits = jnp.argmax(logits, axis=-1) == labels
        count = jnp.sum(weights)
        metrics = {
            "nll/tag": (jnp.sum(plain * weights), count),
            "accuracy/tag": (jnp.sum(hits * weights), count),
        }
        return Sums({"tag": jnp.sum(loss * weights)}, metrics)

    def predict(
        self, model: Model, params: Params, outputs: Outputs, batch: Batch
    ) -> dict[str, jax.Array]:
        """`tag` int32 [B, T], the likeliest label of each token, and its `probability`."""
        shares = jax.nn.softmax(model.head(params, self.head_name, outputs["hidden"]), axis=-1)
        tag = jnp.argmax(shares, axis=-1).astype(jnp.int32)
        return {"tag": tag, "probability": jnp.max(shares, axis=-1)}

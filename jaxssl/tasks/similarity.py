"""Similarity: vectors of texts, near where texts belong together.

Trained on pairs, on texts with what belongs to them and what does not, or on text alone (SimCSE);
scored by the order of pairs (Spearman, as STS) or by what is found among all second texts.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.data.encoding import Truncation, encode_rows
from jaxssl.data.tables.table import Table
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Outputs
from jaxssl.objectives.contrast.objective import Contrasting
from jaxssl.objectives.simcse import check_dropout
from jaxssl.scores import tallies
from jaxssl.scores.retrieval import DEPTH, query_scores, ranks_of_relevant
from jaxssl.tasks.base import Encoded, Task
from jaxssl.tasks.texts import read_texts

PAIR = "pair"
"""What a batch calls the second texts."""


@dataclass(frozen=True, kw_only=True)
class Similarity(Contrasting, Task):
    """Vectors of texts: near where two belong together, far where they do not."""

    name: Literal["similarity"] = "similarity"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The task."""
    text: str = "text"
    """Column of the text, or of the query."""
    pair: str | None = None
    """Column of what belongs to it: a text like it, an answer."""
    negatives: tuple[str, ...] = ()
    """Columns of texts that do not, though they look like it (hard negatives)."""
    label: str | None = None
    """Column of a number, how alike both texts are: for cosent and cosine, and to score splits that
    have it by Spearman's correlation. Else a row's texts belong together: these are scored by
    retrieval."""
    label_range: tuple[float, ...] = ()
    """The labels' lowest and highest, which become 0 and 1 ([0, 5] for STS-B); empty takes them as
    they are."""
    same_text: bool = False
    """Unsupervised SimCSE: trained on the texts alone, each told from the others by another pass
    over it. `pair` and `label` are then those of the other splits."""
    text_prompt: str = ""
    """What comes before each text, such as "query: "."""
    pair_prompt: str = ""
    """What comes before each second text and negative, such as "passage: "."""

    def __post_init__(self):
        super().__post_init__()
        self._check_columns()
        ends = self.label_range
        if ends and (len(ends) != 2 or ends[0] >= ends[1]):
            raise UserError(
                "this is no range",
                where="label_range",
                expected="[lowest, highest], or nothing",
                got=list(ends),
            )

    def _check_columns(self) -> None:
        """Refuses a loss without what it reads, and what would be ignored."""
        loss, lacking = self.loss, None
        if self.pair is None and not self.same_text:
            lacking = ("pair", "a column of second texts, or same_text: true for text alone")
        elif self.same_text and (loss.reads_labels or loss.reads_negatives):
            lacking = ("same_text", "false: text alone has no labels and no negatives")
        elif self.same_text and self.negatives:
            lacking = ("same_text", "false, where negatives are given")
        elif loss.reads_labels and self.label is None:
            lacking = ("label", "the column of a number for each pair")
        elif loss.reads_negatives and not self.negatives:
            lacking = ("negatives", "a column of texts that do not belong to the first")
        elif loss.reads_labels and self.negatives:
            lacking = ("negatives", f"none: {loss.name} reads pairs and their labels alone")
        elif self.head is not None:
            lacking = ("head", "null: vectors of texts have no head")
        if lacking is not None:
            raise UserError(
                "this loss and these columns do not go together",
                where=lacking[0],
                expected=lacking[1],
                got=f"{getattr(self, lacking[0])!r} with loss.name={loss.name}",
            )

    # --- On the host ---

    @property
    def text_columns(self) -> Mapping[str, str]:
        """Those of a pair; of text alone one."""
        columns = {"task.text": self.text}
        if self.pair is not None and not self.same_text:
            columns["task.pair"] = self.pair
        return columns

    def needed_columns(self, labelled: bool) -> Mapping[str, str]:
        """With labels, what the loss reads."""
        columns = dict(self.text_columns)
        if labelled and self.loss.reads_negatives:
            columns |= {f"task.negatives[{i}]": name for i, name in enumerate(self.negatives)}
        if labelled and self.loss.reads_labels and self.label is not None:
            columns["task.label"] = self.label
        return columns

    @property
    def least_rows(self) -> int:
        """One will do where each row has texts of its own to be told from."""
        return 1 if self.negatives else super().least_rows

    @property
    def metric(self) -> str:
        """Spearman's correlation, or how early what belongs to a text is found."""
        if self.label is not None:
            return "spearman"
        return f"mrr@{DEPTH}" if self.pair is not None else "loss"

    def learn_labels(self, train: Table) -> "Similarity":
        """Checks that there is an order of pairs to learn."""
        if self.loss.reads_labels:
            assert self.label is not None
            numbers = train.numbers(self.label, "task.label")
            if len(set(numbers)) < 2:
                raise UserError(
                    "there is nothing to learn",
                    where=f"task.label={self.label}",
                    expected="different numbers in the training split",
                    got=f"{len(numbers)} times {numbers[0]}" if numbers else "none",
                )
        return self

    @property
    def about(self) -> str:
        """What a row is."""
        if self.same_text:
            return f"column {self.text}, each text told from the others of its batch"
        texts = ", ".join([self.text, str(self.pair), *self.negatives])
        return f"columns {texts}, loss {self.loss.name}"

    def encode(
        self,
        table: Table,
        tokenizer: Tokenizer,
        max_length: int,
        split: str,
        *,
        labelled: bool = True,
    ) -> Encoded:
        """Rows of the text, with the others as sides, and `keys` [N, K, 2] of all of them."""
        made, cut = [], Truncation(0, 0, 0)
        for column, key, prompt in self._columns(table, split, labelled):
            texts = [prompt + text for text in read_texts(table, column, key)]
            rows, more = encode_rows(tokenizer, texts, None, max_length)
            made.append(rows)
            cut += more
        references = self.references(table, split, labelled=labelled)
        sides = {_side(number): rows for number, rows in enumerate(made[1:])}
        rows = dataclasses.replace(made[0], per_row=references, sides=sides)
        return Encoded(rows, references, truncation=cut)

    def columns(self, table: Table, split: str) -> list[tuple[str, str]]:
        """The columns of texts that are read of a labelled split, and their keys."""
        return [(column, key) for column, key, _ in self._columns(table, split, True)]

    def references(
        self, table: Table, split: str, *, labelled: bool = True
    ) -> dict[str, np.ndarray]:
        """`keys` uint32 [N, K, 2] of the texts, equal where these are, and if there are any
        `labels` float32 [N]. Text alone is there twice."""
        columns = self._columns(table, split, labelled)
        keys = [_keys(read_texts(table, column, key)) for column, key, _ in columns]
        found = {"keys": np.stack(keys * 2 if len(keys) == 1 else keys, axis=1)}
        if labelled and len(keys) > 1 and self.label in table.columns:
            found["labels"] = self._labels(table)
        return found

    def _columns(self, table: Table, split: str, labelled: bool) -> list[tuple[str, str, str]]:
        """The columns of texts that are read of a split, their keys and what comes before each."""
        is_train = split == "train"
        found = [(self.text, "task.text", self.text_prompt)]
        if self.pair is None or (self.same_text and (is_train or self.pair not in table.columns)):
            return found
        if is_train and not self.loss.reads_labels and self.label in table.columns:
            raise UserError(
                f"{self.loss.name} takes the texts of every row to belong together, and the "
                "training split has labels of how alike they are",
                where=f"task.label, {table.source}",
                expected="a loss that reads them, or a split without that column",
                got=f"column {self.label!r}",
                fix="set objective.loss.name=cosent, or keep the rows whose texts belong together",
            )
        found.append((self.pair, "task.pair", self.pair_prompt))
        if labelled:
            found += [
                (name, "task.negatives", self.pair_prompt)
                for name in self.negatives
                if is_train or name in table.columns
            ]
        return found

    def _labels(self, table: Table) -> np.ndarray:
        """float32 [N], within 0 and 1 if their range is known. Raises UserError."""
        assert self.label is not None
        numbers = np.array(table.numbers(self.label, "task.label"), np.float32)
        if self.label_range:
            low, high = self.label_range
            outside = np.flatnonzero((numbers < low) | (numbers > high))
            if len(outside):
                raise UserError(
                    "a label is outside its range",
                    where=f"{table.places[outside[0]]}, column {self.label}",
                    expected=f"task.label_range={list(self.label_range)}",
                    got=float(numbers[outside[0]]),
                )
            numbers = (numbers - np.float32(low)) / np.float32(high - low)
        self.loss.check_labels(numbers)
        return numbers

    def own_scores(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> dict[str, float]:
        """Of pairs with labels the correlations of their cosines; else those of retrieval."""
        return self.scores_of(_unit(predictions["texts"]), references)

    def scores_of(self, texts: Any, references: Any) -> dict[str, float]:
        """The scores of vectors of length 1.

        Args:
          texts: [N, K, H], or for each of the K texts of a row a sparse matrix [N, H].
        """
        from jaxssl.scores.regression import regression_scores

        if "labels" in references:
            found = regression_scores(_products(*_columns(texts)[:2]), references["labels"])
            return {name: found[name] for name in ("spearman", "pearson")}
        if self.pair is None:
            return {}
        _, scores = _retrieval(texts, references["keys"])
        return {name: float(values.mean()) for name, values in scores.items()}

    def tallies(self, predictions: Mapping[str, np.ndarray], references: Any) -> np.ndarray:
        """Moments of the ranks of cosines and labels [N, 6]; or of each row's share of its query
        the reciprocal rank and 1 [N, 2]."""
        from scipy.stats import rankdata

        texts = _unit(predictions["texts"])
        if "labels" in references:
            cosines = _products(*_columns(texts)[:2])
            return tallies.moments(rankdata(cosines), rankdata(references["labels"]))
        query, scores = _retrieval(texts, references["keys"])
        share = 1 / np.bincount(query)[query]
        return np.stack([scores[f"mrr@{DEPTH}"][query] * share, share], axis=1)

    def from_tallies(self, sums: np.ndarray) -> np.ndarray:
        """`metric`; Spearman's correlation with the ranks of the whole split."""
        return tallies.correlation(sums) if sums.shape[-1] == 6 else tallies.share(sums)

    def identity(self, references: Any) -> list[Any]:
        """The texts and labels."""
        return [np.asarray(references[name]).tolist() for name in sorted(references)]

    def outputs(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> list[dict[str, Any]]:
        """`cosine` of both texts; of text alone its `embedding`."""
        texts = predictions["texts"]
        if self.same_text:
            return [{"embedding": vector.tolist()} for vector in texts[:, 0]]
        return [{"cosine": float(value)} for value in _products(*_columns(_unit(texts))[:2])]

    def majority_baseline(self, train: Any, references: Any) -> dict[str, np.ndarray]:
        """Random vectors: equal ones would all be found first."""
        shape = (*references["keys"].shape[:2], 16)
        return {"texts": np.random.default_rng(0).normal(size=shape).astype(np.float32)}

    # --- On the device ---

    def texts_of(self, batch: Batch) -> list[Batch]:
        """The text and its sides, or the text twice."""
        names = [PAIR, *(_side(i + 1) for i in range(len(self.negatives)))]
        sides = [
            {"tokens": batch[name], **{p: batch[f"{name}_{p}"] for p in _PARTS}}
            for name in names
            if name in batch
        ]
        return [batch, *(sides or [batch])]

    def keys_of(self, batch: Batch) -> jax.Array:
        """As they were read."""
        return batch["keys"][:, : len(self.texts_of(batch))]

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """Of text alone two passes must differ."""
        super().check(model, vocabulary)
        if self.same_text:
            check_dropout(model)

    def predict(
        self, model: Model, params: Params, outputs: Outputs, batch: Batch
    ) -> dict[str, jax.Array]:
        """`texts` [B, K, H]."""
        return {"texts": jnp.asarray(outputs["texts"])}


_PARTS = ("segment_ids", "positions")


def _side(number: int) -> str:
    """What a batch calls the texts after the first: `pair`, `negative1` and so on."""
    return f"negative{number}" if number else PAIR


def _keys(texts: Sequence[str]) -> np.ndarray:
    """uint32 [N, 2] of texts; two that differ have one key once in 1e19 pairs."""
    digests = [hashlib.blake2b(t.strip().encode(), digest_size=8).digest() for t in texts]
    return np.frombuffer(b"".join(digests), "<u4").reshape(-1, 2).astype(np.uint32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _columns(texts: Any) -> list[Any]:
    """The K texts of all rows, each [N, H]."""
    return list(np.swapaxes(texts, 0, 1)) if isinstance(texts, np.ndarray) else list(texts)


def _products(one: Any, other: Any) -> np.ndarray:
    """[N] of two [N, H], row by row."""
    if isinstance(one, np.ndarray):
        return np.sum(one * other, axis=-1)
    return np.asarray(one.multiply(other).sum(axis=1)).ravel()


def _stacked(parts: Sequence[Any]) -> Any:
    """Rows one after the other."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    from scipy.sparse import vstack

    return vstack(parts, format="csr")


def _retrieval(texts: Any, keys: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Each row's query, int [N], and the scores [Q] of each query.

    Queries are the different first texts, candidates all different other texts; what is relevant to
    a query are the second texts of all rows that ask it.
    """
    whole = keys.astype(np.uint64)
    one = whole[..., 0] << np.uint64(32) | whole[..., 1]
    _, first_at, query = np.unique(one[:, 0], return_index=True, return_inverse=True)
    _, other_at, other = np.unique(one[:, 1:].T, return_index=True, return_inverse=True)
    answers = other.reshape(-1, len(keys))[0]
    first, *others = _columns(texts)
    order = np.argsort(query, kind="stable")
    groups = np.split(answers[order], np.cumsum(np.bincount(query))[:-1])
    relevant = [np.unique(group) for group in groups]
    ranks = ranks_of_relevant(first[first_at], _stacked(others)[other_at], relevant)
    return query, query_scores(ranks)

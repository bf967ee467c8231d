"""Text to text: a text is read and another one written, for translation, summaries, titles and all
that can be said so (Raffel et al., 2020). Scored on what is written."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.bounds import check_at_least, check_share
from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.data.encoding import encode_rows
from jaxssl.data.tables.table import Table
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.generate.beam import search
from jaxssl.generate.engine import Limits, Plan, Prompts, apart, begin, go_on
from jaxssl.generate.settings import Beams, Sampling
from jaxssl.models.encoder_decoder import EncoderDecoderConfig
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Outputs
from jaxssl.objectives.two_sided import SIDE, TwoSided
from jaxssl.scores import tallies
from jaxssl.tasks.base import Encoded, Task
from jaxssl.tasks.texts import read_texts

ScoredBy = Literal["bleu", "chrf", "rougeL", "exact_match"]
END = "text_end"
"""What a batch says of the vocabulary: the id that ends a text, int32 [B]."""
GREEDY = Sampling(temperature=0)


class Reference(NamedTuple):
    """What a row's text is compared with.

    Attributes:
      text: as the table has it; empty where it is to be written.
      tokens: of it, without its end.
      tokenizer: that reads what was written.
    """

    text: str
    tokens: np.ndarray
    tokenizer: Tokenizer


@dataclass(frozen=True, kw_only=True)
class Seq2seq(TwoSided, Task):
    """Write a text for each text."""

    name: Literal["seq2seq"] = "seq2seq"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The task."""
    text: str = "text"
    """Column of the text that is read."""
    target: str = "target"
    """Column of the text that is written."""
    prompt: str = ""
    """What comes before each text that is read, such as "translate English to German: "."""
    max_target_length: int = 128
    """Most tokens that are written, the end included; longer targets are cut, and told."""
    label_smoothing: float = 0.0
    """Share of the training loss that is the mean over all pieces."""
    beams: Beams | None = None
    """Search what is written in validation and prediction with beams; null takes the likeliest
    token each time."""
    scored_by: ScoredBy = "bleu"
    """What chooses the best checkpoint."""

    def __post_init__(self):
        TwoSided.__post_init__(self)
        Task.__post_init__(self)
        check_at_least(2, self, "max_target_length")
        check_share(self, "label_smoothing")
        if self.head is not None:
            raise UserError(
                "a text is written by the language model's head",
                where="head",
                expected="null",
                got=self.head,
            )

    @property
    def smoothing(self) -> float:
        """As configured."""
        return self.label_smoothing

    # --- On the host ---

    @property
    def writes(self) -> bool:
        """It does."""
        return True

    @property
    def metric(self) -> str:
        """As configured."""
        return self.scored_by

    @property
    def label(self) -> str | None:
        """The column of what is to be written."""
        return self.target

    def needed_columns(self, labelled: bool) -> Mapping[str, str]:
        """Both; to predict, the first."""
        return {**self.text_columns, **({"task.target": self.target} if labelled else {})}

    @property
    def text_column(self) -> str | None:
        """The text that is read."""
        return self.text

    @property
    def about(self) -> str:
        """What is told at the start."""
        how = f"{self.beams.count} beams" if self.beams else "the likeliest token each time"
        return f"column {self.target} for column {self.text}; validation writes with {how}"

    def encode(
        self,
        table: Table,
        tokenizer: Tokenizer,
        max_length: int,
        split: str,
        *,
        labelled: bool = True,
    ) -> Encoded:
        """Rows of the text with its target as their second side; references are the targets."""
        texts = [self.prompt + text for text in read_texts(table, self.text, "task.text")]
        end = tokenizer.document_end
        frame = tokenizer.template(False) or ([], [], [end])
        rows, cut = encode_rows(tokenizer, texts, None, max_length, frame=frame)
        targets = [""] * len(texts)
        if labelled:
            targets = read_texts(table, self.target, "task.target")
        side, cut_targets = encode_rows(
            tokenizer, targets, None, self.max_target_length, frame=([], [], [end])
        )
        ids = [side.tokens[a : b - 1] for a, b in zip(side.starts, side.starts[1:])]
        references = [Reference(*each, tokenizer) for each in zip(targets, ids)]
        notes = ()
        if told := cut_targets.warning(self.max_target_length, f"{split}, targets"):
            notes = (told.replace("data.max_length", "task.max_target_length"),)
        examples = dataclasses.replace(rows, sides={SIDE: side})
        return Encoded(examples, references, notes=notes, truncation=cut)

    def written(self, predictions: Mapping[str, Any], references: Sequence[Reference]) -> list[str]:
        """The texts that were written."""
        found = []
        for row, length, reference in zip(
            predictions["written"], predictions["length"], references, strict=True
        ):
            tokenizer = reference.tokenizer
            ids = [i for i in row[:length].tolist() if i < tokenizer.vocab_size]
            found.append(tokenizer.decode(ids).strip())
        return found

    def own_scores(self, predictions: Mapping[str, Any], references: Any) -> dict[str, float]:
        """BLEU and chrF of sacreBLEU, ROUGE, and the share of texts that are right wholly."""
        from jaxssl.scores.rouge import mean_rouge
        from jaxssl.scores.translation import translation_scores

        texts, wanted = self.written(predictions, references), [x.text for x in references]
        exact = float(np.mean([a == b.strip() for a, b in zip(texts, wanted)]))
        return {
            **translation_scores(texts, wanted),
            **mean_rouge(texts, wanted),
            "exact_match": exact,
        }

    def tallies(self, predictions: Mapping[str, Any], references: Any) -> np.ndarray:
        """What BLEU is made of [E, 10], or the score of each text and 1 [E, 2]."""
        from jaxssl.scores.rouge import rouge_scores
        from jaxssl.scores.translation import bleu_tallies, translation_scores

        texts, wanted = self.written(predictions, references), [x.text for x in references]
        if self.scored_by == "bleu":
            return bleu_tallies(texts, wanted)
        one = {
            "exact_match": lambda a, b: float(a == b.strip()),
            "rougeL": lambda a, b: rouge_scores(a, b)["rougeL"],
            "chrf": lambda a, b: translation_scores([a], [b])["chrf"],
        }[self.scored_by]
        return np.array([[one(a, b), 1.0] for a, b in zip(texts, wanted)]).reshape(-1, 2)

    def from_tallies(self, sums: np.ndarray) -> np.ndarray:
        """The corpus's BLEU, or the mean over texts."""
        from jaxssl.scores.translation import bleu_of

        return bleu_of(sums) if self.scored_by == "bleu" else tallies.share(sums)

    def identity(self, references: Any) -> list[Any]:
        """The targets."""
        return [reference.text for reference in references]

    def outputs(self, predictions: Mapping[str, Any], references: Any) -> list[dict[str, Any]]:
        """`text` that was written, and its `log_probability`."""
        texts, scores = self.written(predictions, references), predictions["log_probability"]
        return [{"text": a, "log_probability": float(b)} for a, b in zip(texts, scores)]

    def majority_baseline(self, train: Any, references: Any) -> dict[str, np.ndarray]:
        """The most frequent target, always."""
        (text, _), *_ = Counter(reference.text for reference in train).most_common(1)
        ids = next(reference.tokens for reference in train if reference.text == text)
        count = len(references)
        return {
            "written": np.tile(ids, (count, 1)),
            "length": np.full(count, len(ids)),
            "log_probability": np.zeros(count, np.float32),
        }

    # --- On the device ---

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """An encoder-decoder, whose positions are enough for the targets."""
        super().check(model, vocabulary)
        if self.max_target_length > model.max_positions:
            raise UserError(
                "the targets may be longer than the model's positions",
                where="task.max_target_length",
                expected=f"at most model.max_positions={model.max_positions}",
                got=self.max_target_length,
            )

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """Nothing is changed; what writing must know of the vocabulary is added."""
        return {END: jnp.full(batch["tokens"].shape[:1], vocabulary.document_end, jnp.int32)}

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The number of tokens that are written."""
        return TwoSided.weights(self, batch)

    def predict(
        self, model: Model, params: Params, outputs: Outputs, batch: Batch
    ) -> dict[str, jax.Array]:
        """`written` int32 [B, U] and `length` int32 [B], without the end, `log_probability` [B]."""
        model, params = apart(model, params)
        config, most = model.config, self.max_target_length
        assert isinstance(config, EncoderDecoderConfig)
        sampling = dataclasses.replace(GREEDY, max_new_tokens=most)
        plan = Plan(model, most + 1, config.vocab_size, sampling)
        count = batch["tokens"].shape[0]
        start = jnp.full((count, 1), config.decoder_start_token_id, jnp.int32)
        lengths = jnp.sum(batch["segment_ids"] > 0, axis=1, dtype=jnp.int32)
        ones = jnp.ones(count, jnp.int32)
        begun = begin(plan, params, Prompts(start, ones, batch["tokens"], lengths))
        limits = Limits(batch[END][:1], jnp.int32(most))
        if self.beams is not None:
            ended = search(plan, self.beams, params, begun, limits)
            tokens, length, score = (x[:, 0] for x in (ended.tokens, ended.lengths, ended.sums))
        else:
            keys = jax.random.split(jax.random.key(0), count)
            made = go_on(plan, params, begun, keys, limits, jnp.int32(most))
            tokens, length, score = made.tokens, made.lengths - 1, made.scores
        tokens = tokens[:, 1:]
        last = jnp.take_along_axis(tokens, jnp.maximum(length - 1, 0)[:, None], axis=1)[:, 0]
        length = length - (last == batch[END])
        return {"written": tokens, "length": length, "log_probability": score}

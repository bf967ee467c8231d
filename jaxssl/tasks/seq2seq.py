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

from jaxssl.core.bounds import check_at_least, check_share, check_unused
from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.data.encoding import encode_rows
from jaxssl.data.pairs_packing import fit_both
from jaxssl.data.tables.table import Table
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.generate.beam import search
from jaxssl.generate.engine import (
    Limits,
    Plan,
    Prompts,
    added,
    apart,
    begin,
    go_on,
    without_end,
)
from jaxssl.generate.settings import Beams, Sampling
from jaxssl.models.encoder_decoder import EncoderDecoderConfig
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Outputs
from jaxssl.objectives.prefix_lm import check_sees_ahead
from jaxssl.objectives.two_sided import SIDE, TwoSided, check_start
from jaxssl.ops.attention.pattern import Pattern
from jaxssl.scores import tallies
from jaxssl.tasks.base import Encoded, Task
from jaxssl.tasks.choices import (
    Choices,
    check_targets,
    choice_scores,
    learn_choices,
    named,
    named_by_spelling,
    tree_entries,
    tree_of,
)
from jaxssl.tasks.label_notes import list_labels
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


class References(NamedTuple):
    """Of a row of training that holds several texts."""

    parts: tuple[Reference, ...]

    @property
    def text(self) -> str:
        """Of all."""
        return "\0".join(part.text for part in self.parts)


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
    prefix_visible: bool = True
    """Of models of one stack, which read and write in one row: all tokens of what is read see each
    other (a prefix language model), else those before them alone. Only what is written is learnt,
    either way."""
    packing: bool = False
    """Put several pairs into a row of training, as many as fit on both sides; none sees another.
    For encoder-decoders."""
    label_smoothing: float = 0.0
    """Share of the training loss that is the mean over all pieces."""
    beams: Beams | None = None
    """Search what is written in validation and prediction with beams; null takes the likeliest
    token each time."""
    choices: Choices | None = None
    """The only texts that may be written, as a classifier chooses among labels: a list of them, or
    `targets`, those of the training split."""
    several: bool = False
    """A target is several of the choices with spaces between, such as a tag for each word."""
    scored_by: ScoredBy | None = None
    """What chooses the best checkpoint; null is bleu, or exact_match where there are choices."""

    def __post_init__(self):
        TwoSided.__post_init__(self)
        Task.__post_init__(self)
        check_at_least(2, self, "max_target_length")
        check_share(self, "label_smoothing")
        if self.choices is None:
            check_unused(self, ["several"], where="without task.choices")
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
        """As configured; of what is chosen the share that is right, which is the accuracy."""
        return self.scored_by or ("exact_match" if self.choices else "bleu")

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
        if isinstance(self.choices, tuple):
            how += f", one of {len(self.choices)} texts ({list_labels(self.choices)})"
        return f"column {self.target} for column {self.text}; validation writes with {how}"

    def learn_labels(self, train: Table) -> "Seq2seq":
        """Takes the texts to choose from out of the training split, where they are its targets."""
        if self.choices is None:
            return self
        given = (self.choices, train, self.target, self.several)
        return dataclasses.replace(self, choices=learn_choices(*given))

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
        if labelled and isinstance(self.choices, tuple):
            check_targets(table, self.target, self.choices, self.several)
        side, cut_targets = encode_rows(
            tokenizer, targets, None, self.max_target_length, frame=([], [], [end])
        )
        ids = [side.tokens[a : b - 1] for a, b in zip(side.starts, side.starts[1:])]
        references = [Reference(*each, tokenizer) for each in zip(targets, ids)]
        notes = ()
        if told := cut_targets.warning(self.max_target_length, f"{split}, targets"):
            notes = (told.replace("data.max_length", "task.max_target_length"),)
        examples = dataclasses.replace(rows, sides={SIDE: side})
        if self.packing and labelled and split == "train":
            lengths = np.stack([rows.lengths, side.lengths], axis=1)
            held = fit_both(lengths, (max_length, self.max_target_length))
            examples = examples.packed(held)
            references = [References(tuple(references[i] for i in row)) for row in held]
        if isinstance(self.choices, tuple):
            longest, count = self.max_target_length, examples.num_rows
            tree = tree_entries(self.choices, tokenizer, longest, count, self.several)
            examples = dataclasses.replace(examples, per_row=tree)
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
        if isinstance(self.choices, tuple) and references:
            names = named_by_spelling(self.choices, references[0].tokenizer)
            found = [named(text, names, self.several) for text in found]
        return found

    def own_scores(self, predictions: Mapping[str, Any], references: Any) -> dict[str, float]:
        """BLEU and chrF of sacreBLEU, ROUGE, and the share of texts that are right wholly; of what
        is chosen those of a classifier too."""
        from jaxssl.scores.rouge import mean_rouge
        from jaxssl.scores.translation import translation_scores

        texts, wanted = self.written(predictions, references), [x.text for x in references]
        exact = float(np.mean([a == b.strip() for a, b in zip(texts, wanted)]))
        chosen = {}
        if isinstance(self.choices, tuple):
            chosen = choice_scores(texts, wanted, self.choices, self.several)
        return {
            **chosen,
            **translation_scores(texts, wanted),
            **mean_rouge(texts, wanted),
            "exact_match": exact,
        }

    def tallies(self, predictions: Mapping[str, Any], references: Any) -> np.ndarray:
        """What BLEU is made of [E, 10], or the score of each text and 1 [E, 2]."""
        from jaxssl.scores.rouge import rouge_scores
        from jaxssl.scores.translation import bleu_tallies, translation_scores

        texts, wanted = self.written(predictions, references), [x.text for x in references]
        if self.metric == "bleu":
            return bleu_tallies(texts, wanted)
        one = {
            "exact_match": lambda a, b: float(a == b.strip()),
            "rougeL": lambda a, b: rouge_scores(a, b)["rougeL"],
            "chrf": lambda a, b: translation_scores([a], [b])["chrf"],
        }[self.metric]
        return np.array([[one(a, b), 1.0] for a, b in zip(texts, wanted)]).reshape(-1, 2)

    def from_tallies(self, sums: np.ndarray) -> np.ndarray:
        """The corpus's BLEU, or the mean over texts."""
        from jaxssl.scores.translation import bleu_of

        return bleu_of(sums) if self.metric == "bleu" else tallies.share(sums)

    def identity(self, references: Any) -> list[Any]:
        """The targets."""
        return [reference.text for reference in references]

    def outputs(self, predictions: Mapping[str, Any], references: Any) -> list[dict[str, Any]]:
        """`text` that was written, and its `log_probability`."""
        texts, scores = self.written(predictions, references), predictions["log_probability"]
        return [{"text": a, "log_probability": float(b)} for a, b in zip(texts, scores)]

    def majority_baseline(self, train: Any, references: Any) -> dict[str, np.ndarray]:
        """The most frequent target, always."""
        rows = [x.parts if isinstance(x, References) else (x,) for x in train]
        known = [each for row in rows for each in row]
        (text, _), *_ = Counter(reference.text for reference in known).most_common(1)
        ids = next(reference.tokens for reference in known if reference.text == text)
        count = len(references)
        return {
            "written": np.tile(ids, (count, 1)),
            "length": np.full(count, len(ids)),
            "log_probability": np.zeros(count, np.float32),
        }

    # --- On the device ---

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """An encoder-decoder, or a causal model; its positions must be enough for the targets."""
        if model.encoder_decoder:
            check_start(model, vocabulary)
        elif self.packing:
            raise UserError(
                "a model of one stack reads and writes in one row: pairs are not packed",
                where="task.packing",
                expected="false, or an encoder-decoder",
                got=f"true, for model.name={model.name}",
            )
        elif not model.causal:
            raise UserError(
                "this model cannot write",
                where="task.name=seq2seq",
                expected="an encoder-decoder (t5, bart, ...) or a causal model (gpt2, llama, ...)",
                got=f"model.name={model.name}",
                fix="set model.part=both" if model.left_out else None,
            )
        elif self.prefix_visible:
            check_sees_ahead(model, fix="set task.prefix_visible=false, or model.part=both")
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

    def forward(
        self, model: Model, params: Params, batch: Batch, key: jax.Array | None
    ) -> dict[str, Any]:
        """`hidden` [B, U, H]: of each place of what is written, the state that it is guessed
        from."""
        if model.config.encoder_decoder:
            return TwoSided.forward(self, model, params, batch, key)
        row, lengths = in_one_row(batch)
        width = row["tokens"].shape[1]
        if width > model.max_positions:
            raise UserError(
                "what is read and what is written are longer than the model's positions together",
                where="data.max_length, task.max_target_length",
                expected=f"at most model.max_positions={model.config.max_positions}"
                + (f", less {model.taken} of adapters" if model.taken else ""),
                got=f"{batch['tokens'].shape[1]} + {batch[SIDE].shape[1]}",
                fix="set the one or the other lower",
            )
        pattern = Pattern(causal=True, prefix=True) if self.prefix_visible else None
        hidden = model.encode(params, row, key, pattern)
        at = jnp.maximum(lengths - 1, 0)[:, None] + jnp.arange(batch[SIDE].shape[1])
        return {"hidden": jnp.take_along_axis(hidden, at[..., None], axis=1)}

    def predict(
        self, model: Model, params: Params, outputs: Outputs, batch: Batch
    ) -> dict[str, jax.Array]:
        """`written` int32 [B, U] and `length` int32 [B], without the end, `log_probability` [B]."""
        model, params = apart(model, params)
        config, most = model.config, self.max_target_length
        sampling = dataclasses.replace(GREEDY, max_new_tokens=most)
        count, length = batch["tokens"].shape
        lengths = jnp.sum(batch["segment_ids"] > 0, axis=1, dtype=jnp.int32)
        if config.encoder_decoder:
            assert isinstance(config, EncoderDecoderConfig)
            plan = Plan(model, most + 1, config.vocab_size, sampling)
            start = jnp.full((count, 1), config.decoder_start_token_id, jnp.int32)
            ones = jnp.ones(count, jnp.int32)
            prompts = Prompts(start, ones, batch["tokens"], lengths)
        else:
            slots = length + most
            plan = Plan(model, slots, config.vocab_size, sampling, self.prefix_visible)
            prompts = Prompts(batch["tokens"], jnp.maximum(lengths, 1))  # of a filler none is read
        begun = begin(plan, params, prompts)
        limits = Limits(batch[END][:1], jnp.int32(most), tree_of(batch))
        if self.beams is not None:
            ended = search(plan, self.beams, params, begun, limits)
            best, new, score = (x[:, 0] for x in (ended.tokens, ended.lengths, ended.sums))
            made = dataclasses.replace(begun, tokens=best, lengths=begun.starts + new)
        else:
            keys = jax.random.split(jax.random.key(0), count)
            made = go_on(plan, params, begun, keys, limits, jnp.int32(most))
            score = made.scores
        tokens, new = added(made, most)
        new = without_end(tokens, new, batch[END])
        return {"written": tokens, "length": new, "log_probability": score}


def in_one_row(batch: Batch) -> tuple[dict[str, Any], jax.Array]:
    """What is read [B, T] and right behind it what is written [B, U], as rows [B, T + U] with a
    `prefix`, and how long each prefix is, int32 [B]."""
    read = jnp.sum(batch["segment_ids"] > 0, axis=1, dtype=jnp.int32)[:, None]
    both = read + jnp.sum(batch[f"{SIDE}_segment_ids"] > 0, axis=1, dtype=jnp.int32)[:, None]
    (count, T), U = batch["tokens"].shape, batch[SIDE].shape[1]
    places = jnp.broadcast_to(jnp.arange(T + U, dtype=jnp.int32), (count, T + U))
    first = jnp.take_along_axis(batch["tokens"], jnp.minimum(places, T - 1), axis=1)
    second = jnp.take_along_axis(batch[SIDE], jnp.clip(places - read, 0, U - 1), axis=1)
    real = places < both
    row = {
        "tokens": jnp.where(places < read, first, jnp.where(real, second, 0)),
        "segment_ids": real.astype(jnp.int32),
        "positions": jnp.where(real, places, 0),
        "prefix": (places < read).astype(jnp.int32),
    }
    if "row" in batch:
        row["row"] = batch["row"]
    return row, read[:, 0]

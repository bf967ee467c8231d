"""Conversations: the assistant's next answer, learnt from its answers alone.

The tokenizer's chat template writes a conversation, and the loss is that of the assistant's tokens
and of what ends its turns. Rows of training hold several conversations, none of which sees another.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.data.chat.conversations import Dialogue, read_conversations
from jaxssl.data.chat.rows import LEARNT, fit, prompts, rows_of
from jaxssl.data.tables.table import Table
from jaxssl.data.tokenizer.chat_template import ChatTemplate, Written, with_template
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.generate.engine import Limits, Plan, Prompts, added, apart, begin, go_on, without_end
from jaxssl.generate.settings import Sampling
from jaxssl.models.heads import CAUSAL_LM, Head
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Loss, Outputs, Sums
from jaxssl.objectives.next_token import following, next_token_sums, next_tokens
from jaxssl.ops.losses import filled_chunks
from jaxssl.scores import tallies
from jaxssl.tasks.base import Encoded, Task

ASKED = "asked"
"""What a batch has where an answer is to be written: the id that ends one, int32 [B]."""
GREEDY = Sampling(temperature=0)


class Answers(NamedTuple):
    """The assistant's part of a row.

    Attributes:
      tokens: that are learnt; none where an answer is to be written.
      key: equal for the same conversations, whatever the tokenizer.
      tokenizer: that reads what was written.
      fits: whether the row holds the question.
    """

    tokens: np.ndarray
    key: str
    tokenizer: Tokenizer
    fits: bool = True


@dataclass(frozen=True, kw_only=True)
class Chat(Task):
    """Answer in a conversation."""

    name: Literal["chat"] = "chat"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The task."""
    messages: str | None = None
    """Column of the conversations: lists of {role, content} or {from, value}; null is `messages`,
    or `conversations`."""
    dialogue: Dialogue | None = None
    """How conversations are made of a table with a line of a dialogue in each row; null reads them
    from `messages`."""
    template: str | None = None
    """What writes them: chatml, or a file with a template (jinja); null is the tokenizer's own."""
    packing: bool = True
    """Put several conversations into a row of training; none sees another."""
    too_long: Literal["leave_out", "refuse"] = "leave_out"
    """What to do with a conversation whose last turn alone is longer than a row. Others lose their
    oldest turns. All of this is said."""
    max_answer_length: int = 64
    """Most tokens of an answer that `jaxssl predict` writes."""
    z_loss: float = 0.0
    """Factor of log(Z)**2, which keeps the logits' scale in check; PaLM used 1e-4."""
    chunk: int = 128
    """Positions of each row whose logits are held at once."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "chunk", "max_answer_length")
        check_at_least(0, self, "z_loss")
        if self.messages is not None and self.dialogue is not None:
            raise UserError(
                "conversations are read from a column, or made of lines",
                where="messages, dialogue",
                expected="one of both",
                got=self.messages,
            )
        if self.head is not None:
            raise UserError(
                "an answer is written by the language model's head",
                where="head",
                expected="null",
                got=self.head,
            )

    # --- On the host ---

    @property
    def writes(self) -> bool:
        """It does."""
        return True

    @property
    def metric(self) -> str:
        """Of the answers' tokens."""
        return "perplexity"

    @property
    def label(self) -> str | None:
        """The answers are within the conversations."""
        return None

    @property
    def text_columns(self) -> Mapping[str, str]:
        """The conversations, if their column is named."""
        return {} if self.messages is None else {"task.messages": self.messages}

    def needed_columns(self, labelled: bool) -> Mapping[str, str]:
        """Those of the lines, or that of the conversations, which alone are answered."""
        made = self.dialogue if labelled else None
        return self.text_columns if made is None else made.columns

    @property
    def about(self) -> str:
        """What is learnt."""
        packed = ", several conversations a row" if self.packing else ""
        return f"the assistant's answers{packed}"

    def prepared(self, tokenizer: Tokenizer) -> Tokenizer:
        """With the template."""
        return with_template(tokenizer, self.template)

    def encode(
        self,
        table: Table,
        tokenizer: Tokenizer,
        max_length: int,
        split: str,
        *,
        labelled: bool = True,
    ) -> Encoded:
        """Rows of whole conversations, packed in training; not `labelled`, of all that the next
        answer follows."""
        template = ChatTemplate(tokenizer)
        if not labelled:
            return self._asked(table, template, max_length)
        if self.dialogue is not None:
            conversations = self.dialogue.conversations(table)
        else:
            conversations = read_conversations(table, self.messages)
        fitted = fit(template, conversations, max_length, refuse=self.too_long == "refuse")
        packed = max_length if self.packing and split == "train" else None
        rows, held = rows_of(fitted.written, tokenizer.special_ids, packed)
        references = []
        for numbers in held:
            tokens = [fitted.written[i].ids[fitted.written[i].learnt] for i in numbers]
            key = _key([fitted.texts[i] for i in numbers])
            references.append(Answers(np.concatenate(tokens), key, tokenizer))
        note = fitted.note(split, max_length)
        return Encoded(rows, references, notes=() if note is None else (note,))

    def _asked(self, table: Table, template: ChatTemplate, max_length: int) -> Encoded:
        room = max_length - self.max_answer_length
        if room < 1:
            raise UserError(
                "an answer leaves no room for a question",
                where="task.max_answer_length",
                expected=f"less than data.max_length={max_length}",
                got=self.max_answer_length,
            )
        conversations = read_conversations(table, self.messages)
        found = prompts(template, conversations, room)
        nothing = np.array([template.end], np.int32)
        ids = [nothing if each is None else each for each in found]
        written = [Written(each, np.zeros(len(each), bool)) for each in ids]
        rows, _ = rows_of(written, template.tokenizer.special_ids, None)
        asked = np.full(len(ids), template.end, np.int32)
        references = [
            Answers(nothing[:0], _key([each.text]), template.tokenizer, prompt is not None)
            for each, prompt in zip(conversations, found)
        ]
        lost = sum(each is None for each in found)
        note = f"{lost:,} questions are longer than {room} tokens, and get no answer"
        rows = dataclasses.replace(rows, per_row={ASKED: asked})
        return Encoded(rows, references, notes=(note,) * bool(lost))

    def own_scores(self, predictions: Mapping[str, Any], references: Any) -> dict[str, float]:
        """Perplexity of the answers, and the share of their tokens that are the likeliest."""
        sums = self.tallies(predictions, references).sum(axis=0)
        right = float(np.sum(predictions["right"], dtype=np.float64))
        return {
            "perplexity": float(self.from_tallies(sums)),
            "token_accuracy": right / max(1.0, sums[1]),
        }

    def tallies(self, predictions: Mapping[str, Any], references: Any) -> np.ndarray:
        """Nats and tokens of each row [E, 2]."""
        return np.stack([predictions["nats"], predictions["count"]], axis=1).astype(np.float64)

    def from_tallies(self, sums: np.ndarray) -> np.ndarray:
        """Perplexity."""
        return np.exp(np.minimum(tallies.share(sums), 700.0))

    def identity(self, references: Any) -> list[Any]:
        """The conversations."""
        return [reference.key for reference in references]

    def outputs(self, predictions: Mapping[str, Any], references: Any) -> list[dict[str, Any]]:
        """`answer` that was written, and its `log_probability`; null where the question is too
        long."""
        made = zip(
            predictions["written"],
            predictions["length"],
            predictions["log_probability"],
            references,
            strict=True,
        )
        return [
            {
                "answer": _read(ids[:length], reference.tokenizer) if reference.fits else None,
                "log_probability": float(score) if reference.fits else None,
            }
            for ids, length, score, reference in made
        ]

    def majority_baseline(self, train: Any, references: Any) -> dict[str, np.ndarray]:
        """Each token as likely as it is in all answers of `train`, one more of each."""
        counts = Counter[int]()
        for reference in train:
            counts.update(reference.tokens.tolist())
        kinds = {*counts, *(i for reference in references for i in reference.tokens.tolist())}
        total = sum(counts.values()) + len(kinds)
        (likeliest, _), *_ = counts.most_common(1)
        nats = {kind: np.log(total / (counts[kind] + 1)) for kind in kinds}
        return {
            "nats": np.array([sum(nats[i] for i in x.tokens.tolist()) for x in references]),
            "count": np.array([len(x.tokens) for x in references], np.float64),
            "right": np.array([np.sum(x.tokens == likeliest) for x in references], np.float64),
        }

    # --- On the device ---

    @property
    def heads(self) -> tuple[Head, ...]:
        """The token embedding, or a projection."""
        return (CAUSAL_LM,)

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Nats for each token of an answer."""
        return {self.name: Loss(per_token=True, shown="answers")}

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """A causal model of one stack."""
        if not model.causal or model.encoder_decoder:
            raise UserError(
                "this model cannot be talked to",
                where="task.name=chat",
                expected="a causal model of one stack: gpt2, llama, ...",
                got=f"model.name={model.name}",
                fix="an encoder-decoder learns to answer with task.name=seq2seq"
                if model.encoder_decoder
                else "start from a run of causal_lm",
            )

    def keeps_pooler(self, model: ModelConfig) -> bool:
        """No: every token counts."""
        return False

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """Adds `next_tokens` int32 [B, T] and `next_weights` float32 [B, T]: the answers'."""
        made = next_tokens(batch)
        return {**made, "next_weights": made["next_weights"] * following(batch[LEARNT])}

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The number of tokens of answers."""
        return {self.name: jnp.sum(batch["next_weights"])}

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Cross entropy in chunks of the sequence."""
        return next_token_sums(
            model,
            params,
            outputs["hidden"],
            batch["next_tokens"],
            batch["next_weights"],
            name=self.name,
            chunk=self.chunk,
            z_loss=self.z_loss,
        )

    def predict(
        self, model: Model, params: Params, outputs: Outputs, batch: Batch
    ) -> dict[str, jax.Array]:
        """`nats`, `right` and `count` [B] of the answers' tokens; of rows that wait for an answer
        `written` int32 [B, U], `length` [B] without the end, and `log_probability` [B]."""
        if ASKED in batch:
            return self._answers(model, params, batch)

        def one(given):
            hidden, targets, weights = given
            logits = model.head(params, CAUSAL_LM.name, hidden).astype(jnp.float32)
            logs = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)
            right = jnp.argmax(logits, axis=-1) == targets
            return jnp.sum(-logs[..., 0] * weights, 1), jnp.sum(right * weights, 1)

        parts = outputs["hidden"], batch["next_tokens"], batch["next_weights"]
        chunks = jax.tree.map(lambda x: filled_chunks(x, self.chunk), parts)
        nats, right = jax.lax.map(one, chunks)
        count = jnp.sum(batch["next_weights"], axis=1)
        return {"nats": nats.sum(axis=0), "right": right.sum(axis=0), "count": count}

    def _answers(self, model: Model, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """The likeliest token each time, up to what ends a turn."""
        model, params = apart(model, params)
        most, tokens = self.max_answer_length, batch["tokens"]
        count, length = tokens.shape
        sampling = dataclasses.replace(GREEDY, max_new_tokens=most)
        plan = Plan(model, length + most, model.config.vocab_size, sampling)
        starts = jnp.maximum(jnp.sum(batch["segment_ids"] > 0, axis=1, dtype=jnp.int32), 1)
        begun = begin(plan, params, Prompts(tokens, starts))
        limits = Limits(batch[ASKED][:1], jnp.int32(most))
        keys = jax.random.split(jax.random.key(0), count)
        made = go_on(plan, params, begun, keys, limits, jnp.int32(most))
        written, new = added(made, most)
        return {
            "written": written,
            "length": without_end(written, new, batch[ASKED]),
            "log_probability": made.scores,
        }


def _read(ids: np.ndarray, tokenizer: Tokenizer) -> str:
    known = [i for i in ids.tolist() if i < tokenizer.vocab_size]
    return tokenizer.decode(known).strip()


def _key(texts: Sequence[str]) -> str:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=12).hexdigest()

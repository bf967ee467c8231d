"""`jaxssl verify`: our forward pass against that of `transformers` on torch, on a user's model.

The only module that uses torch, which need not be installed for anything else.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxssl.checkpoint.hf.directory import HfDirectory, open_model
from jaxssl.commands.import_hf import find_source
from jaxssl.commands.imported_task import pooling as row_pooling
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten, unflatten
from jaxssl.core.types import Batch, Params
from jaxssl.models.layer_context import Memory
from jaxssl.models.layers import unbox
from jaxssl.models.model import check_length
from jaxssl.tasks.pooling import pooled

ROWS, LENGTH = 2, 192
"""Longer than the windows of ModernBERT, which are of 64 tokens on each side."""
LIMIT = 1e-4
"""The largest relative difference, in the L2 norm, that arithmetic in another order explains."""


@dataclass(frozen=True)
class Difference:
    """How far two arrays are apart.

    Attributes:
      what: hidden states, of an encoder-decoder those of either stack, or logits.
      relative: the L2 norm of the difference over that of torch's.
      largest: the largest absolute difference.
    """

    what: str
    relative: float
    largest: float

    @property
    def is_small(self) -> bool:
        return self.relative < LIMIT


def verify(
    source: str | Path, *, length: int | None = None, say: Callable[[str], None] = print
) -> list[Difference]:
    """Compares hidden states, and the logits of a language model's or a task's head, in float32, on
    random tokens, one row with padding.

    Args:
      source: a Hugging Face directory, or a model's name on the hub.
      length: of the rows, in tokens; None is 192, or as many as the model has positions for.
      say: is told of windows that are wider than the rows, and so are not compared.

    Raises:
      UserError: torch is not installed, or the model cannot be read here.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "torch is not installed",
            where="jaxssl verify",
            expected="torch, to compare with",
            got="none",
            fix="pip install torch",
        )
    path = find_source(str(source))
    found = open_model(path)
    rows = _rows(found, length)
    _tell_windows(found, rows["tokens"].shape[1], say)
    ours, theirs = _ours(found, rows), _theirs(found, rows)
    real = rows["segment_ids"] > 0
    both = [what for what in ours if what in theirs]

    def tokens(x):
        return x[real] if x.ndim == 3 else x  # what padding says does not matter

    return [_difference(what, tokens(ours[what]), tokens(theirs[what])) for what in both]


def _rows(found: HfDirectory, length: int | None) -> Batch:
    """Random tokens; the second row is half padding."""
    length = min(LENGTH, found.config.max_positions) if length is None else length
    if length < 2:
        raise UserError("rows without padding", where="--length", expected="at least 2", got=length)
    check_length(found.config, length, "--length")
    tokens = np.random.default_rng(0).integers(5, found.config.vocab_size, (ROWS, length))
    real = np.arange(length) < np.array([[length], [length // 2]])
    return {
        "tokens": np.where(real, tokens, found.given.get("pad_token_id") or 0).astype(np.int32),
        "segment_ids": real.astype(np.int32),
        "positions": np.where(real, np.arange(length), 0).astype(np.int32),
    }


def _tell_windows(found: HfDirectory, length: int, say: Callable[[str], None]) -> None:
    widths = [layer.pattern.window for layer in found.config.self_attention().layers]
    widest = max((width for width in widths if width), default=0)
    if widest < length - 1:
        return
    longer = min(2 * widest, found.config.max_positions)
    fix = f" (--length {longer} does)" if longer > widest + 1 else ""
    say(
        f"note: a window of attention is {widest} tokens wide on a side, as far as rows of "
        f"{length} tokens go: it was not compared{fix}"
    )


def _ours(found: HfDirectory, rows: Batch) -> dict[str, np.ndarray]:
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    leaves = found.leaves()
    shapes = flatten(unbox(found.model.abstract()))
    params = unflatten(
        {
            name: found.read(name, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here))
            for name, leaf in shapes.items()
            if name in leaves
        }
    )
    if found.config.encoder_decoder:
        return _both_stacks(found, params, rows)
    hidden = found.model.encode(params, rows)
    made = {"hidden states": np.asarray(hidden)}
    for head in found.heads:
        x = hidden
        if found.model.head_named(head).input == "row":
            x = found.model.pool(params, hidden)
        elif head == "row":
            how = row_pooling(found.config, found.given)
            x = pooled(how, found.model, params, hidden, rows)
        name = "next sentence's logits" if head == "next_sentence" else "logits"
        made[name] = np.asarray(found.model.head(params, head, x))
    return made


def _both_stacks(found: HfDirectory, params: Params, rows: Batch) -> dict[str, np.ndarray]:
    """What the encoder makes of the rows, and the decoder of the same tokens beside them."""
    memory = Memory(found.model.encode(params, rows), rows["segment_ids"])
    hidden = found.model.write(params, rows, memory)
    made = {"encoder's hidden states": memory.hidden, "decoder's hidden states": hidden}
    for head in found.heads:
        made["logits"] = found.model.head(params, head, hidden)
    return {what: np.asarray(x) for what, x in made.items()}


def _theirs(found: HfDirectory, rows: Batch) -> dict[str, np.ndarray]:
    import torch
    import transformers

    name = (found.given.get("architectures") or ["AutoModel"])[0]
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = getattr(transformers, name).from_pretrained(found.path, **options).eval()
    if model.config.pad_token_id is None:  # classifiers of causal models want one
        model.config.pad_token_id = 0
    inputs = {
        "input_ids": torch.tensor(np.asarray(rows["tokens"])).long(),
        "attention_mask": torch.tensor(np.asarray(rows["segment_ids"])).long(),
    }
    reads_and_writes = found.config.encoder_decoder
    if reads_and_writes:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    elif found.config.name not in ("distilbert", "t5", "mt5"):  # they take none: they are these
        positions = rows["positions"] + getattr(found.config, "position_offset", 0)
        inputs["position_ids"] = torch.tensor(np.asarray(positions)).long()
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True)
    if reads_and_writes:
        whole = {
            "encoder's hidden states": out.encoder_last_hidden_state,
            "decoder's hidden states": out.decoder_hidden_states[-1],
            "logits": out.get("logits"),
        }
        return {what: x.numpy() for what, x in whole.items() if x is not None}
    made = {"hidden states": out.hidden_states[-1].numpy()}
    logits = getattr(out, "prediction_logits", getattr(out, "logits", None))
    if "span" in found.heads:
        logits = torch.stack([out.start_logits, out.end_logits], -1)
    if "replaced_tokens" in found.heads:
        logits = out.logits[..., None]  # one number a token, without an axis of its own there
    named = {"logits": logits, "next sentence's logits": out.get("seq_relationship_logits")}
    if found.heads == ("next_sentence",):
        named = {"next sentence's logits": logits}
    return made | {what: x.numpy() for what, x in named.items() if x is not None}


def _difference(what: str, ours: np.ndarray, theirs: np.ndarray) -> Difference:
    apart = ours.astype(np.float64) - theirs
    relative = np.linalg.norm(apart) / max(float(np.linalg.norm(theirs)), 1e-30)
    return Difference(what, float(relative), float(np.abs(apart).max()))

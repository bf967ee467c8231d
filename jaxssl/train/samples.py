"""Examples of what a model says while it trains: continuations, or filled masks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxssl.core.types import Params, Vocabulary
from jaxssl.data.tokenizer import Tokenizer
from jaxssl.generate.decode import Sampling, generate
from jaxssl.generate.fill_mask import fill_mask
from jaxssl.models.model import Model


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """What to show at each validation."""

    prompts: tuple[str, ...] = ()
    """A causal model continues these; a masked model fills the mask token in them. Empty shows
    none."""
    sampling: Sampling = Sampling(max_new_tokens=48)
    """How continuations are drawn."""
    top: int = 5
    """How many tokens to show for each mask."""


def samples(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    config: SamplesConfig,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind, fields) for each prompt: "sample" with prompt and text, or "fill_mask"."""
    if not config.prompts:
        return
    if "causal_lm" in model.heads:
        texts = continue_texts(
            model, params, tokenizer, vocabulary, config.prompts, config.sampling
        )
        for prompt, text in zip(config.prompts, texts):
            yield "sample", {"prompt": prompt, "text": text}
    elif "masked_lm" in model.heads:
        for prompt in config.prompts:
            for predictions in fill_text(model, params, tokenizer, vocabulary, prompt, config.top):
                yield "fill_mask", {"text": prompt, "predictions": predictions}


def continue_texts(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    prompts: tuple[str, ...],
    sampling: Sampling,
) -> list[str]:
    """The text that follows each prompt; an empty prompt starts a document."""
    start = np.array([vocabulary.document_end], np.int32)
    ids = [ids if len(ids) else start for ids in tokenizer.encode_batch(list(prompts))]
    new = generate(model, params, ids, sampling, vocabulary.document_end)
    # Decoded with its prompt, so that spaces come out as they would in the whole text.
    texts = []
    for before, after in zip(ids, new):
        whole = tokenizer.decode([*before, *after])
        known = tokenizer.decode(before)
        texts.append(whole[len(known) :] if whole.startswith(known) else tokenizer.decode(after))
    return texts


def mask_row(tokenizer: Tokenizer, vocabulary: Vocabulary, text: str) -> np.ndarray:
    """`[CLS] text [SEP]` as ids, with each mask token written in the text as the mask id."""
    mask_id = vocabulary.special_ids["mask"]
    pieces = text.split(tokenizer.token(mask_id) or "[MASK]")
    encoded = tokenizer.encode_batch(pieces)
    row = [vocabulary.special_ids["cls"]] if "cls" in vocabulary.special_ids else []
    for i, ids in enumerate(encoded):
        row += ([mask_id] if i else []) + list(ids)
    if "sep" in vocabulary.special_ids:
        row.append(vocabulary.special_ids["sep"])
    return np.array(row, np.int32)


def fill_text(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    text: str,
    top: int,
) -> list[list[dict[str, Any]]]:
    """For each mask in `text`: [{"token", "probability"}], likeliest first."""
    row = mask_row(tokenizer, vocabulary, text)
    masks = fill_mask(model, params, [row], vocabulary.special_ids["mask"], top)[0]
    return [
        [
            {"token": tokenizer.token(int(i)), "probability": float(p)}
            for i, p in zip(ids, probabilities)
        ]
        for ids, probabilities in masks
    ]

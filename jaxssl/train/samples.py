"""Examples of what a model says while it trains: continuations, or filled masks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.types import Vocabulary
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.generate.fill_mask import fill_mask
from jaxssl.generate.settings import Sampling
from jaxssl.generate.texts import LanguageModel, write_texts
from jaxssl.models.heads import Head
from jaxssl.models.model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """What to show at each validation."""

    prompts: tuple[str, ...] = ()
    """Continued by a causal model; in those of a masked model the mask token is filled. Empty shows
    none."""
    sampling: Sampling = Sampling(max_new_tokens=48)
    """How continuations are drawn."""
    top: int = 5
    """How many tokens to show for each mask."""

    def __post_init__(self):
        check_at_least(1, self, "top")


def check_samples(
    config: SamplesConfig,
    model: ModelConfig,
    heads: Sequence[Head],
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    *,
    lead: int = 0,
) -> None:
    """Refuses prompts that `samples` could do nothing with, before the training and not after.

    Args:
      heads: the objective's; they decide what is done with a prompt.
      lead: tokens that adapters put before each.

    Raises:
      UserError: the first such prompt, or a `top` larger than the vocabulary.
    """
    if not config.prompts:
        return
    uses = [head.use for head in heads]
    if "continue" in uses:
        _check_continued(config, model, tokenizer, lead)
    elif "fill" in uses:
        _check_filled(config, model, tokenizer, vocabulary, lead)
    else:
        raise UserError(
            "this objective can neither continue a prompt nor fill a mask in it",
            where="samples.prompts",
            expected="an objective that predicts tokens (causal_lm, masked_lm), or no prompts",
            got=", ".join(head.name for head in heads),
            fix="set samples.prompts=[]",
        )


def _check_continued(
    config: SamplesConfig, model: ModelConfig, tokenizer: Tokenizer, lead: int
) -> None:
    """All prompts are continued together, so the longest one decides."""
    lengths = [max(1, len(ids)) for ids in tokenizer.encode_batch(list(config.prompts))]
    longest, new = max(lengths), config.sampling.max_new_tokens or 1
    if not model.encoder_decoder:
        longest += lead
    if longest + new > model.max_positions:
        room = model.max_positions - longest
        shorter = f"set samples.sampling.max_new_tokens={room}, or " if room > 0 else ""
        raise UserError(
            "a prompt and its continuation are longer than the model's positions",
            where=f"samples.prompts[{lengths.index(max(lengths))}]",
            expected=f"at most model.max_positions={model.max_positions} tokens in all",
            got=f"{longest} and samples.sampling.max_new_tokens={new}",
            fix=f"{shorter}shorten the prompt",
        )


def _check_filled(
    config: SamplesConfig,
    model: ModelConfig,
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    lead: int,
) -> None:
    if config.top > vocabulary.size:
        raise UserError(
            "so many candidates for a mask cannot be shown",
            where="samples.top",
            expected=f"1 to {vocabulary.size}, the size of the vocabulary",
            got=config.top,
        )
    mask_id = vocabulary.special_ids["mask"]
    for number, prompt in enumerate(config.prompts):
        row = mask_row(tokenizer, vocabulary, prompt)
        if mask_id not in row:
            raise UserError(
                "there is no mask to fill in a prompt",
                where=f"samples.prompts[{number}]",
                expected=f"{mask_text(tokenizer, vocabulary)} in the text",
                got=repr(prompt),
            )
        if len(row) + lead > model.max_positions:
            raise UserError(
                "a prompt is longer than the model's positions",
                where=f"samples.prompts[{number}]",
                expected=f"at most model.max_positions={model.max_positions} tokens, special "
                "tokens and those of adapters included",
                got=len(row) + lead,
                fix="shorten the prompt",
            )


def samples(
    language_model: LanguageModel, config: SamplesConfig
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind, fields) for each prompt: "sample" with prompt and text, or "fill_mask"."""
    if not config.prompts:
        return
    if language_model.model.can("continue"):
        texts = write_texts(language_model, config.prompts, config.sampling)
        prompts = [prompt for prompt in config.prompts for _ in range(config.sampling.samples)]
        for prompt, text in zip(prompts, texts):
            yield "sample", {"prompt": prompt, "text": text.text}
    elif language_model.model.can("fill"):
        for prompt in config.prompts:
            for predictions in fill_text(language_model, prompt, config.top):
                yield "fill_mask", {"text": prompt, "predictions": predictions}


def mask_text(tokenizer: Tokenizer, vocabulary: Vocabulary) -> str:
    """What stands for a mask in a text."""
    return tokenizer.token(vocabulary.special_ids["mask"]) or "[MASK]"


def mask_row(tokenizer: Tokenizer, vocabulary: Vocabulary, text: str) -> np.ndarray:
    """`[CLS] text [SEP]` as ids, with each mask token written in the text as the mask id."""
    mask_id = vocabulary.special_ids["mask"]
    pieces = text.split(mask_text(tokenizer, vocabulary))
    before_mask, after_mask = tokenizer.mask_strips
    if before_mask:
        pieces = [*(piece.rstrip() for piece in pieces[:-1]), pieces[-1]]
    if after_mask:
        pieces = [pieces[0], *(piece.lstrip() for piece in pieces[1:])]
    row, _, after = tokenizer.frame(pair=False)
    row = list(row)
    for i, ids in enumerate(tokenizer.encode_batch(pieces)):
        row += ([mask_id] if i else []) + list(ids)
    return np.array([*row, *after], np.int32)


def fill_text(language_model: LanguageModel, text: str, top: int) -> list[list[dict[str, Any]]]:
    """For each mask in `text`: [{"token", "probability"}], likeliest first."""
    model, params, tokenizer, vocabulary = language_model
    row = mask_row(tokenizer, vocabulary, text)
    mask = vocabulary.special_ids["mask"]
    masks = fill_mask(model, params, [row], mask, top, vocabulary.size)[0]
    return [
        [
            {"token": tokenizer.token(int(i)), "probability": float(p)}
            for i, p in zip(ids, probabilities)
        ]
        for ids, probabilities in masks
    ]

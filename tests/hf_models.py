"""Random models of `transformers` on torch, small, one for each thing that a family can have."""

import functools
from pathlib import Path

import numpy as np
import torch
import transformers

VOCAB, T = 61, 16
SHAPE = dict(
    vocab_size=VOCAB,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=3,  # an odd number
    intermediate_size=40,
    max_position_embeddings=32,
)
NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
DECODER = {**SHAPE, "num_key_value_heads": 3, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**DECODER, "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 24}
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=10_000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
YARN = dict(rope_type="yarn", rope_theta=10_000.0, factor=2.0, original_max_position_embeddings=16)
MODERN = dict(
    pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2, **SHAPE
)
DISTIL = dict(
    vocab_size=VOCAB,
    dim=24,
    n_layers=3,
    n_heads=3,
    hidden_dim=40,
    max_position_embeddings=32,
    dropout=0.0,
    attention_dropout=0.0,
)
GPT2 = dict(
    vocab_size=VOCAB,
    n_embd=24,
    n_layer=3,
    n_head=3,
    n_inner=40,
    n_positions=32,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
    bos_token_id=1,
    eos_token_id=2,
)
ROBERTA = {**SHAPE, **NO_DROPOUT, "max_position_embeddings": 34, "type_vocab_size": 1}

MASKED = {
    "bert": ("Bert", {**SHAPE, **NO_DROPOUT}),
    "bert, tanh": ("Bert", {**SHAPE, **NO_DROPOUT, "hidden_act": "gelu_new"}),
    "roberta": ("Roberta", ROBERTA),
    "distilbert": ("DistilBert", DISTIL),
    "electra": ("Electra", {**SHAPE, **NO_DROPOUT, "embedding_size": 10}),
    "electra, full width": ("Electra", {**SHAPE, **NO_DROPOUT, "embedding_size": 24}),
    "modernbert": ("ModernBert", {**MODERN, "local_attention": 4}),
    "modernbert, every second": (
        "ModernBert",
        {**MODERN, "local_attention": 6, "global_attn_every_n_layers": 2},
    ),
}
CAUSAL = {
    "gpt2": ("GPT2", GPT2),
    "llama": ("Llama", DECODER),
    "llama, tied": ("Llama", {**DECODER, "tie_word_embeddings": True}),
    "llama, grouped": ("Llama", GROUPED),
    "llama, biases": ("Llama", {**GROUPED, "attention_bias": True, "mlp_bias": True}),
    "llama, llama3": ("Llama", {**GROUPED, "rope_parameters": LLAMA3}),
    "llama, linear": (
        "Llama",
        {**GROUPED, "rope_parameters": dict(rope_type="linear", rope_theta=1e4, factor=2.0)},
    ),
    "llama, yarn": ("Llama", {**GROUPED, "rope_parameters": YARN}),
    "mistral, window": ("Mistral", {**GROUPED, "sliding_window": 5}),
    "mistral, no window": ("Mistral", {**GROUPED, "sliding_window": None, "head_dim": 8}),
    "qwen2": ("Qwen2", {**GROUPED, "tie_word_embeddings": True}),
    "qwen2, window above": (
        "Qwen2",
        {**GROUPED, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 8, "tie_word_embeddings": True}),
    "qwen3, biases": ("Qwen3", {**GROUPED, "head_dim": 6, "attention_bias": True}),
}
CASES = {**MASKED, **CAUSAL}


@functools.cache
def reference(case: str, head: str = "", **changes):
    """A random torch model in evaluation mode.

    Args:
      head: the class's ending; by default that of the family's language model.
    """
    family, shape = CASES[case]
    lm = {"GPT2": "LMHeadModel"}.get(family, "ForCausalLM" if case in CAUSAL else "ForMaskedLM")
    config = getattr(transformers, f"{family}Config")(**{**shape, **changes})
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}{head or lm}")(config)
    generator = torch.Generator().manual_seed(1)
    for name, p in model.named_parameters():
        is_norm = p.ndim == 1 and name.endswith("weight")
        p.data = 0.15 * torch.randn(p.shape, generator=generator) + float(is_norm)
    model.tie_weights()
    return model.eval()


def save(model, path: Path, **options) -> Path:
    """The model's directory, as `transformers` writes it."""
    model.save_pretrained(path, **options)
    return path


def batch(side: str) -> dict[str, np.ndarray]:
    """Three rows of tokens with padding on one side; positions restart after it."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, VOCAB, (3, T)).astype(np.int32)
    real = np.arange(T)[None] < np.array([T, 11, 6])[:, None]
    real = real if side == "right" else real[:, ::-1]
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    return {
        "tokens": np.where(real, tokens, 0).astype(np.int32),
        "segment_ids": real.astype(np.int32),
        "positions": (positions * real).astype(np.int32),
    }


def torch_inputs(model, rows: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The same rows as the torch model takes them."""
    positions = torch.tensor(rows["positions"]).long()
    if model.config.model_type == "roberta":
        positions = positions + model.config.pad_token_id + 1
    inputs = {
        "input_ids": torch.tensor(rows["tokens"]).long(),
        "attention_mask": torch.tensor(rows["segment_ids"]).long(),
    }
    return (
        inputs if model.config.model_type == "distilbert" else {**inputs, "position_ids": positions}
    )

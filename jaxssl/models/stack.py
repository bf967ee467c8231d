"""A stack of equal blocks: one `nn.scan` per segment of layers.

A stack of n layers is one segment by default and its parameters are stacked, `layers/...` [n, ...].
Split in segments, (k, n - k) say, it becomes `layers[0:k]/...` and `layers[k:n]/...`, so that
each leaf is wholly frozen or wholly trained.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax

from jaxssl.core.errors import UserError
from jaxssl.models.blocks import Block
from jaxssl.models.config import BlockConfig
from jaxssl.models.layer_context import Context, layer_numbers, with_layers
from jaxssl.ops.attention.pattern import Pattern

Remat = Literal["none", "full", "dots", "attention", "attention+feed_forward"]
"""What the backward pass finds kept: everything (`none`), only each block's input (`full`), matrix
products, or the tensors named."""


def segment_names(segments: tuple[int, ...]) -> list[str]:
    """Parameter names of the segments."""
    if len(segments) == 1:
        return ["layers"]
    ends = list(itertools.accumulate(segments, initial=0))
    return [f"layers[{start}:{end}]" for start, end in zip(ends, ends[1:])]


def check_segments(segments: tuple[int, ...], num_layers: int) -> tuple[int, ...]:
    """`segments`, or one segment of all layers where it is empty.

    Raises:
      UserError: the segments do not add up to the layers.
    """
    segments = segments or (num_layers,)
    if sum(segments) != num_layers or any(size < 1 for size in segments):
        raise UserError(
            "the segments do not add up to the layers",
            where="segments",
            expected=f"positive sizes that sum to {num_layers}",
            got=segments,
        )
    return segments


class Stack(nn.Module):
    """The layers of a model, scanned segment by segment."""

    config: BlockConfig
    segments: tuple[int, ...]
    remat: Remat = "none"
    unroll: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, context: Context, patterns: Sequence[Pattern]) -> jax.Array:
        """Hidden states [B, T, H] after the last layer.

        Args:
          patterns: of attention, one a layer.
        """
        block, start = remat_block(self.remat), 0
        context = with_layers(context, self.config.attention, patterns)
        for name, length in zip(segment_names(self.segments), self.segments):
            layers = nn.scan(
                block,
                length=length,
                variable_axes={"params": 0, "cache": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(nn.broadcast, 0),  # pyright: ignore[reportArgumentType]
                metadata_params={nn.PARTITION_NAME: "layers"},
                unroll=length if self.unroll else 1,
                check_constancy_invariants=False,  # it costs a trace more: half of all tracing
            )
            numbers = layer_numbers(self.config, patterns, start, start + length)
            x, _ = layers(self.config, name=name)(x, context, numbers)
            start += length
        return x


def remat_block(remat: Remat) -> Any:
    """The block class under the named rematerialisation policy."""
    policies = jax.checkpoint_policies
    if remat == "none":
        return Block
    policy = {
        "full": policies.nothing_saveable,
        "dots": policies.dots_with_no_batch_dims_saveable,
        "attention": policies.save_only_these_names("attention_output"),
        "attention+feed_forward": policies.save_only_these_names(
            "attention_output", "feed_forward_hidden"
        ),
    }[remat]
    return nn.remat(Block, prevent_cse=False, policy=policy)

"""A stack of equal blocks: one `nn.scan` per segment of layers.

A stack of n layers is one segment by default and its parameters are stacked, `layers/...` [n, ...].
Split in segments, (k, n - k) say, it becomes `layers[0:k]/...` and `layers[k:n]/...`, so that
each leaf is wholly frozen or wholly trained.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax

from jaxssl.core.layer_names import ADAPTERS
from jaxssl.models.blocks import Block
from jaxssl.models.config import BlockConfig, Stack
from jaxssl.models.layer_context import Context, layer_numbers, with_layers
from jaxssl.models.relative import RelativeBias
from jaxssl.ops.attention import cudnn
from jaxssl.ops.attention.pattern import Pattern

Remat = Literal["none", "full", "dots", "dots_on_hosts", "attention", "attention+feed_forward"]
"""What the backward pass finds kept: everything (`none`), only each block's input (`full`), what
projections and attention give (`dots`), on the devices or in the hosts' memory, or the tensors
named."""

DOTS = ("projection", "attention_output")


class LayerStack(nn.Module):
    """The layers of a stack, scanned segment by segment."""

    stack: Stack
    config: BlockConfig
    remat: Remat = "none"
    unroll: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, context: Context, patterns: Sequence[Pattern]) -> jax.Array:
        """Hidden states [B, T, H] after the last layer.

        Args:
          patterns: of attention, one a layer.
        """
        block, relative = remat_block(self.remat), self.config.attention.relative
        if relative is not None:
            bias = RelativeBias(relative, self.config, name="relative")(x.shape[1], context)
            context = dataclasses.replace(context, bias=bias)
        context = with_layers(context, self.config.attention, patterns)
        for name, start, end in self.stack.parts:
            layers = nn.scan(
                block,
                length=end - start,
                variable_axes={"params": 0, ADAPTERS: 0, "cache": 0},
                split_rngs={"params": True, ADAPTERS: True, "dropout": True},
                in_axes=(nn.broadcast, 0),  # pyright: ignore[reportArgumentType]
                metadata_params={nn.PARTITION_NAME: "layers"},
                unroll=end - start if self.unroll else 1,
                check_constancy_invariants=False,  # it costs a trace more: half of all tracing
            )
            numbers = layer_numbers(self.config, patterns, start, end)
            x, _ = layers(self.config, name=name)(x, context, numbers)
        return x


def remat_block(remat: Remat) -> Any:
    """The block class under the named rematerialisation policy."""
    policies = jax.checkpoint_policies
    if remat == "none":
        return Block
    if remat == "full":
        return nn.remat(Block, prevent_cse=False, policy=policies.nothing_saveable)
    # By name: a policy sees the products of `linear`, a custom_vjp, as one call that is none.
    if remat == "dots_on_hosts":
        policy = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=DOTS,
            offload_src="device",
            offload_dst="pinned_host",
        )
        return nn.remat(Block, prevent_cse=False, policy=policy)
    names = {
        "dots": DOTS,
        "attention": ("attention_output",),
        "attention+feed_forward": ("attention_output", "feed_forward_hidden"),
    }[remat]
    policy = policies.save_from_both_policies(policies.save_only_these_names(*names), cudnn.is_kept)
    return nn.remat(Block, prevent_cse=False, policy=policy)

"""An objective without a loss: what a step reads, and in which order, as one number."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from jaxssl import Objective, Sums, register

NAMES = ("tokens", "segment_ids", "positions", "example_id", "epoch")


@dataclass(frozen=True, kw_only=True)
class Order(Objective):
    """Beside an objective that changes the text it sees it changed: masks and all.

    Whole numbers are added up, modulo 2^32, and the 24 bits that a float32 holds are kept: equal
    for the same rows in the same order on any devices, and else by chance once in 2^24.
    """

    name: Literal["order"] = "order"
    """The objective."""

    def sees_corrupted(self, training):
        """It does."""
        return True

    def weights(self, batch):
        """One a batch."""
        return {"order": jnp.ones([])}

    def sums(self, model, params, outputs, batch, key=None):
        """The number, and no loss."""
        total = jnp.zeros([], jnp.uint32)
        for turn, name in enumerate(NAMES):
            x = batch[name].astype(jnp.uint32)
            place = jnp.arange(x.size, dtype=jnp.uint32).reshape(x.shape)
            total += jnp.sum(_mixed(x + _mixed(place + jnp.uint32(turn << 24))), dtype=jnp.uint32)
        number = (_mixed(total) >> 8).astype(jnp.float32)
        return Sums({"order": jnp.zeros([])}, {"order": (number, jnp.ones([]))})


def _mixed(x):
    """The finaliser of MurmurHash3: each bit of x changes half of the bits."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


register(Objective, Order)

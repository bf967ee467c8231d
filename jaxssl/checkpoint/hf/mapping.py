"""How a family's parameters and the tensors of Hugging Face's files stand for each other.

A family's file lists pairs of names, and is read in both directions. Names of ours are those of an
uncut stack, `encoder/layers/...`, whose layers are `{layer}` on the other side.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from jaxssl.models.encoder_decoder import EncoderDecoderConfig, Part
from jaxssl.models.model import ModelConfig

Kind = Literal["linear", "conv1d", "vector", "table"]
"""How the other side writes a parameter: [out, in], [in, out], flat, or as it is here."""


@dataclass(frozen=True)
class Pair:
    """A parameter and the tensor, or the part of one, that holds it.

    Attributes:
      ours: the parameter's canonical name.
      theirs: the tensor's name, with `{layer}` for the number of the layer.
      kind: how it is laid out there.
      num_in: how many leading axes of ours, in a kernel, are inputs.
      part: (which, of how many) equal parts of the tensor's outputs.
      first_layer: the first layer that has a tensor.
    """

    ours: str
    theirs: str
    kind: Kind
    num_in: int = 1
    part: tuple[int, int] = (0, 1)
    first_layer: int = 0

    def shape_there(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the tensor for a parameter (of one layer) of this shape."""
        count = self.part[1]
        if self.kind == "table":
            return shape
        if self.kind == "vector":
            return (math.prod(shape) * count,)
        ins, outs = math.prod(shape[: self.num_in]), math.prod(shape[self.num_in :])
        return (outs * count, ins) if self.kind == "linear" else (ins, outs * count)

    def take(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The parameter of this shape in its tensor: a view, which costs nothing."""
        number, count = self.part
        if self.kind == "table":
            return tensor
        axis = 1 if self.kind == "conv1d" else 0
        size = tensor.shape[axis] // count
        chosen = slice(number * size, (number + 1) * size)
        part = tensor[:, chosen] if axis else tensor[chosen]
        if self.kind != "linear":
            return part.reshape(shape)
        ins, outs = shape[: self.num_in], shape[self.num_in :]
        order = (*range(len(outs), len(shape)), *range(len(outs)))
        return part.reshape(*outs, *ins).transpose(order)

    def give(self, value: np.ndarray) -> np.ndarray:
        """The inverse of `take`: the parameter as (a part of) its tensor."""
        if self.kind == "table":
            return value
        if self.kind == "vector":
            return value.reshape(-1)
        ins = math.prod(value.shape[: self.num_in])
        if self.kind == "conv1d":
            return value.reshape(ins, -1)
        order = (*range(self.num_in, value.ndim), *range(self.num_in))
        return value.transpose(order).reshape(-1, ins)


def table(ours: str, theirs: str) -> list[Pair]:
    """A table of embeddings."""
    return [Pair(f"{ours}/embedding", f"{theirs}.weight", "table")]


def linear(
    ours: str,
    theirs: str,
    *,
    bias: bool = True,
    num_in: int = 1,
    part: tuple[int, int] = (0, 1),
    kind: Literal["linear", "conv1d"] = "linear",
) -> list[Pair]:
    """A projection's kernel and bias."""
    pairs = [Pair(f"{ours}/kernel", f"{theirs}.weight", kind, num_in, part)]
    return pairs + [Pair(f"{ours}/bias", f"{theirs}.bias", "vector", 0, part)] * bias


def norm(ours: str, theirs: str, *, bias: bool = True, first_layer: int = 0) -> list[Pair]:
    """A norm's scale and bias."""
    names = [("scale", "weight"), ("bias", "bias")][: 1 + bias]
    return [
        Pair(f"{ours}/{mine}", f"{theirs}.{yours}", "vector", 0, first_layer=first_layer)
        for mine, yours in names
    ]


@dataclass(frozen=True)
class Architecture:
    """A class of `transformers`: what it has besides the body.

    Attributes:
      heads: our language model heads, by name, or the kind of a task's head.
      prefix: what comes before the body's tensors there; None is the family's prefix.
      part: of an encoder-decoder the stack that it has, where it has one alone.
    """

    heads: tuple[str, ...] = ()
    prefix: str | None = None
    part: Part = "both"

    def has(self, config: ModelConfig, heads: Iterable[str]) -> bool:
        """Whether it is that of a model with these heads."""
        part = config.part if isinstance(config, EncoderDecoderConfig) else "both"
        return self.part == part and set(self.heads) == set(heads)


@dataclass(frozen=True)
class Family:
    """One family's correspondence.

    Attributes:
      model_type: its name in `config.json`.
      prefix: what comes before the body's tensors in files with heads.
      read_config: `config.json` and the names of the tensors, without the prefix, to our
        configuration.
      write_config: our configuration to the fields of `config.json`.
      body: the pairs of a configuration's body.
      heads: the pairs of each language model head by its name, with a configuration's details, and
        of task heads as `row`, `token` and `span`; names of ours begin with the head's own.
      architectures: the classes of `transformers`, the first that fits is exported.
      repeated: tensors that repeat a tied one, by name, with the name of what they repeat.
      buffers: patterns of tensors that hold no parameters.
      zeros: tensors without a counterpart here, which must be zero.
      read_as: fields of `config.json` that have no counterpart of their own here, with the field
        that stands for them.
      replaces_tokenizers: `transformers` makes the family's own tokenizer of any vocabulary.
      pooled: heads over the body's pooler, which must be there.
    """

    model_type: str
    prefix: str
    read_config: Callable[[Mapping[str, Any], frozenset[str]], ModelConfig]
    write_config: Callable[[Any], dict[str, Any]]
    body: Callable[[Any], Sequence[Pair]]
    heads: Mapping[str, Callable[[Any], Sequence[Pair]]]
    architectures: Mapping[str, Architecture]
    repeated: Mapping[str, str] = field(default_factory=dict)
    buffers: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()
    read_as: Mapping[str, str] = field(default_factory=dict)
    replaces_tokenizers: bool = False
    pooled: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What it is registered by: our name of the family, which is theirs."""
        return self.model_type


def depth_of(pair: Pair, config: ModelConfig) -> int:
    """The number of layers of the stack that a pair is in."""
    stack = pair.ours.split("/")[0]
    return next(each.depth for each in config.stacks if each.name == stack)


def layers_of(pair: Pair, config: ModelConfig) -> Iterator[tuple[int | None, str]]:
    """(layer, the tensor's name) for each tensor of a pair; the layer is None outside a stack."""
    if "{layer}" not in pair.theirs:
        yield None, pair.theirs
        return
    for layer in range(pair.first_layer, depth_of(pair, config)):
        yield layer, pair.theirs.format(layer=layer)

"""Prompt tuning (Lester et al., 2021): vectors before the embeddings of each text, trained as if
they were those of tokens; and P-tuning (Liu et al., 2021), where they come out of a small network.

They are before the text in its positions, too: token 0 is at position `length`. Nothing is told of
them but what the text's tokens make of them: the hidden states that heads read are the text's, so
that `cls` is the text's first token and a mean is over the text alone. (PEFT's classifiers pool the
first virtual token instead.)

In causal models they are read first and see nothing of the text: a row of several documents has
them once, and a cache holds them. Windows of attention do not hide them. In models that see both
ways they see the text, so that each needs its own: rows hold one text each. Of an encoder-decoder
the encoder reads them, and the decoder sees what it made of them.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.bounds import check_at_least, check_seed, check_unused
from jaxssl.core.errors import UserError
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.models.adapters import Site
from jaxssl.models.model import ModelConfig
from jaxssl.ops.linear import linear
from jaxssl.transfer.peft import prompt_encoder
from jaxssl.transfer.peft.base import Arrays, Method
from jaxssl.transfer.peft.prompt_encoder import Linear


@dataclass(frozen=True, kw_only=True)
class Prompt(Method):
    """Virtual tokens before each text."""

    name: Literal["prompt"] = "prompt"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""
    length: int = 20
    """How many. They count among the model's positions."""
    initialization: Literal["random", "vocabulary", "text"] = "random"
    """What they begin as: a normal of the scale that the table of tokens has, the table's rows of
    tokens that are drawn, or of those of `initial_text`."""
    initial_text: str | None = None
    """A text, such as what is to be done; its tokens are cut or repeated to `length`."""
    initial_ids: tuple[int, ...] = ()
    """The tokens that they begin as; the run finds them."""
    seed: int = 0
    """Of what is drawn; 0 to 2**32 - 1."""
    encoder: prompt_encoder.Kind = "none"
    """What they are computed by while they are trained (P-tuning): nothing, three layers with
    rectifiers between, or two layers of LSTMs in both directions with two layers behind. A run that
    is opened has computed them already."""
    encoder_hidden_size: int | None = None
    """Width of the network's layers; null is that of the embeddings."""
    learning_rate_factor: float = 30.0
    """Its learning rate over `optimizer.learning_rate`, which is meant for training everything."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "length", "encoder_hidden_size")
        check_seed(self)
        if self.encoder == "none":
            check_unused(self, ["encoder_hidden_size"], where="without an encoder")
        elif self.initialization != "random":
            raise UserError(
                "what an encoder gives cannot begin as tokens",
                where="initialization",
                expected=f"random, with encoder={self.encoder}",
                got=self.initialization,
            )
        if self.initialization != "text":
            check_unused(self, ["initial_text"], where=f"of {self.initialization} initialization")
        elif not self.initial_text:
            raise UserError(
                "there is no text to begin as",
                where="initial_text",
                expected="a text, with initialization=text",
                got=self.initial_text,
            )

    @property
    def lead(self) -> int:
        """Its length."""
        return self.length

    def check(self, model: ModelConfig) -> None:
        """Refuses a model that has no position left for a text."""
        if self.length >= model.max_positions:
            raise UserError(
                "the virtual tokens leave no position for a text",
                where="peft.*.length",
                expected=f"below model.max_positions={model.max_positions}",
                got=self.length,
            )

    def prepared(self, tokenizer: Tokenizer) -> "Prompt":
        """With the tokens that they begin as: of the text, or drawn among those that are not
        special."""
        if self.initialization == "random":
            return dataclasses.replace(self, initial_ids=())
        if self.initialization == "text":
            (ids,) = tokenizer.encode_batch([self.initial_text or ""])
            if not len(ids):
                raise UserError(
                    "the text to begin as has no tokens",
                    where="initial_text",
                    expected="some text",
                    got=repr(self.initial_text),
                )
            ids = np.resize(ids, self.length)
        else:
            special = {*tokenizer.special_ids.values(), *tokenizer.special_tokens.values()}
            ordinary = [i for i in range(tokenizer.vocab_size) if i not in special]
            ids = np.random.default_rng(self.seed).permutation(ordinary)
            ids = np.resize(ids, self.length)
        return dataclasses.replace(self, initial_ids=tuple(ids.tolist()))

    # --- What is computed ---

    def embedded(self, site: Site, x: jax.Array) -> jax.Array:
        """[B, length + T, E]."""
        width = x.shape[-1]
        shape = (len(x), self.length, width)
        lead = self._flat(site, width) if self.encoder == "none" else self._encoded(site, width)
        return jnp.concatenate([jnp.broadcast_to(lead, shape).astype(x.dtype), x], axis=1)

    def _flat(self, site: Site, width: int) -> jax.Array:
        start = site.module.config.embedding_initializer
        return site.parameter("prompt", start, (None, "embed"), (self.length, width))

    def _encoded(self, site: Site, width: int) -> jax.Array:
        """What the network gives."""
        inner = self.encoder_hidden_size or width
        made = prompt_encoder.parameters(self.encoder, self.length, width, inner)
        found = {name: site.parameter(name, *each) for name, each in made.items()}
        start = site.module.config.embedding_initializer
        shape = (prompt_encoder.num_read(self.encoder, inner), width)
        found["last_kernel"] = site.parameter("last_kernel", start, (None, "embed"), shape)

        def encoded(given: Arrays) -> jax.Array:
            times: Linear = lambda x, kernel: linear(x, kernel, None, 1, site.precision)
            return prompt_encoder.encoded(self.encoder, given, times)

        return jax.vmap(encoded)(found) if site.is_by_row else encoded(found)

    # --- What it begins as ---

    @property
    def begun_from(self) -> Mapping[str, str]:
        """The table of tokens: what comes out begins at its scale."""
        return {"prompt" if self.encoder == "none" else "last_kernel": "tokens/embedding"}

    def begin(self, name: str, path: str, own: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Rows of the table, or a normal of the scale that it has."""
        del path
        if self.initial_ids:
            return jnp.broadcast_to(own[np.array(self.initial_ids)], shape)
        wide = own.astype(jnp.promote_types(own.dtype, jnp.float32))
        scale = jnp.sqrt(jnp.mean(jnp.square(wide)))
        if name == "last_kernel":
            inner = self.encoder_hidden_size or shape[-1]
            read = prompt_encoder.read_scale(self.encoder, self.length, shape[-1], inner)
            scale = scale / (read * math.sqrt(shape[-2]))
        return scale * jax.random.normal(jax.random.key(self.seed), shape, wide.dtype)

    # --- Once trained ---

    @property
    def folded(self) -> "Prompt":
        """Without an encoder."""
        if self.encoder == "none":
            return self
        return dataclasses.replace(self, encoder="none", encoder_hidden_size=None)

    def fold(self, added: Arrays) -> Arrays:
        """The vectors that an encoder gives."""
        if self.encoder == "none":
            return added
        given = {name: jnp.asarray(x) for name, x in added.items()}
        return {"prompt": prompt_encoder.encoded(self.encoder, given, jnp.matmul)}

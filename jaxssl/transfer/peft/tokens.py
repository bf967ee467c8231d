"""Some tokens' rows of the vocabulary's tables, trained by themselves: those of tokens that are new
to a model, say, as PEFT's trainable tokens.

Of the table of embeddings, and of an output with a table of its own, what is trained is what each
row differs by from the model's, from zero. A table that is both is changed in both.

Shapes: N tokens; a table [V, H], an output [H, V].
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jax.nn import initializers

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.models.adapters import Compute, Site
from jaxssl.models.model import ModelConfig
from jaxssl.ops.linear import linear
from jaxssl.transfer.peft.base import Arrays, Method, product
from jaxssl.transfer.peft.rows import ALONE, OUTPUT, Rows


@dataclass(frozen=True, kw_only=True)
class Tokens(Method):
    """Rows of some tokens in the tables of the vocabulary."""

    name: Literal["tokens"] = "tokens"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""
    tokens: tuple[str, ...] = ()
    """Which, as the tokenizer's vocabulary writes them."""
    ids: tuple[int, ...] = ()
    """Their ids, which the run finds; or these alone, without `tokens`."""
    learning_rate_factor: float = 1.0
    """Its learning rate over `optimizer.learning_rate`: rows are parameters as the model's own."""

    def __post_init__(self):
        super().__post_init__()
        chosen = self.tokens or self.ids
        repeated = any(len({*each}) < len(each) for each in (self.tokens, self.ids))
        if not chosen or repeated or min(self.ids, default=0) < 0:
            raise UserError(
                "not a choice of tokens",
                where="tokens" if self.tokens else "tokens, ids",
                expected="tokens of the vocabulary, each once",
                got=list(chosen),
            )

    def prepared(self, tokenizer: Tokenizer) -> "Tokens":
        """With the ids. Raises UserError: a token that the tokenizer has not."""
        if not self.tokens:
            return self
        known = {tokenizer.token(i): i for i in range(tokenizer.vocab_size)}
        for token in self.tokens:
            if token not in known:
                there = [each for each in known if each is not None]
                raise UserError(
                    "the tokenizer has no such token",
                    where="peft.*.tokens",
                    expected="tokens as its vocabulary writes them",
                    got=token,
                    fix=did_you_mean(token, there) or "add it first: jaxssl tokenizer --help",
                )
        ids = tuple(known[token] for token in self.tokens)
        if self.ids not in ((), ids):
            raise UserError(
                "these tokens have other ids",
                where="peft.*.ids",
                expected=f"{list(ids)}, as the tokenizer has them",
                got=list(self.ids),
                fix="leave ids out",
            )
        return dataclasses.replace(self, ids=ids)

    def check(self, model: ModelConfig) -> None:
        """Refuses ids that the model has no rows for."""
        if max(self.ids, default=0) >= model.vocab_size:
            raise UserError(
                "the model has no rows of these tokens",
                where="peft.*.ids",
                expected=f"below model.vocab_size={model.vocab_size}",
                got=max(self.ids),
            )

    @property
    def same_throughout(self) -> Sequence[str]:
        """Which tokens: rows are told by their order."""
        return ("ids",)

    @property
    def is_of_all_rows(self) -> bool:
        """It is."""
        return True

    # --- What is computed ---

    def embedding(self, site: Site, compute: Compute, ids: jax.Array) -> jax.Array:
        """Rows of the table, and what these tokens' differ by."""
        y = compute(ids)
        if not site.path.endswith("/tokens"):
            return y
        rows = self._rows(site, site.module.width)
        which = (ids[..., None] == np.array(self.ids, np.int32)).astype(y.dtype)
        return y + product(site, which, rows, 1)

    def attended(self, site: Site, compute: Compute, hidden: jax.Array) -> jax.Array:
        """Logits of a table that is the output, too."""
        logits = compute(hidden)
        if not site.path.endswith("/tokens"):
            return logits
        return self._with_logits(site, logits, hidden, self._rows(site, site.module.width))

    def projection(self, site: Site, compute: Compute, x: jax.Array) -> jax.Array:
        """Logits of an output with a table of its own."""
        y = compute(x)
        if f"{site.path}/kernel" != OUTPUT:
            return y
        return self._with_logits(site, y, x, self._rows(site, x.shape[-1]))

    def _rows(self, site: Site, width: int) -> jax.Array:
        """[N, H]."""
        if site.sets is not None:
            raise UserError(
                "tokens are those of all rows of a batch",
                where=site.path,
                expected="one set of rows of tokens",
                got=f"{site.sets} sets",
            )
        shape = (len(self.ids), width)
        return site.parameter("rows", initializers.zeros, (None, "embed"), shape)

    def _with_logits(
        self, site: Site, logits: jax.Array, hidden: jax.Array, rows: jax.Array
    ) -> jax.Array:
        more: Any = linear(hidden, rows.T, None, 1, site.precision, True)
        return logits.at[..., np.array(self.ids)].add(more.astype(logits.dtype))

    # --- Once trained ---

    @property
    def is_in_tied_output(self) -> bool:
        """It is."""
        return True

    def merge(self, path: str, own: Arrays, added: Arrays) -> dict[str, jax.Array]:
        """The table with these rows, or the output with these columns."""
        del path
        ids = np.array(self.ids)
        if "embedding" in own:
            return {**own, "embedding": own["embedding"].at[ids].add(added["rows"])}
        return {**own, "kernel": own["kernel"].at[:, ids].add(added["rows"].T)}

    def in_whole(
        self, own: Mapping[str, np.ndarray], modules: Mapping[str, Mapping[str, np.ndarray]]
    ) -> dict[str, Rows]:
        """The rows as they are with the adapter, by the name of their table.

        Args:
          own: the model's parameters by path.
          modules: {path of a module: the adapter's arrays there}.
        """
        found = {}
        for module, arrays in modules.items():
            leaf = "embedding" if f"{module}/embedding" in own else "kernel"
            name = f"{module}/{leaf}"
            before = Rows.of(own[name], self.ids, name)
            found[name] = Rows(self.ids, before.values + arrays["rows"])
        return found

    def peft_config(self) -> dict[str, Any]:
        """As PEFT's TrainableTokensConfig."""
        return {"peft_type": ALONE, "token_indices": list(self.ids)}


def of_rows(rows: Mapping[str, Rows], own: Callable[[str], np.ndarray]) -> tuple[Tokens, Any]:
    """The method and {path of a module: its arrays} of rows as they are.

    Args:
      own: gives a parameter of the model by its name.
    """
    (ids,) = {each.indices for each in rows.values()}
    modules = {
        name.rsplit("/", 1)[0]: {"rows": each.values - Rows.of(own(name), ids, name).values}
        for name, each in rows.items()
    }
    return Tokens(ids=ids), modules

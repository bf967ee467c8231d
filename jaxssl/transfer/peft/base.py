"""What methods of parameter-efficient transfer say of themselves to a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import jax

from jaxssl.core.bounds import check_above_zero
from jaxssl.core.errors import UserError
from jaxssl.core.names import matches
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.models.adapters import Adapter, Site
from jaxssl.models.model import ModelConfig
from jaxssl.ops.linear import linear

Arrays = Mapping[str, Any]
"""Of a module or of an adapter in it, by name."""
ALL_LINEAR = "all-linear"
"""A target: all projections of the layers."""


@dataclass(frozen=True, kw_only=True)
class Method(Adapter):
    """A method that recipes can name: an adapter with settings, registered."""

    from_: str | None = None
    """Begin as it was trained elsewhere, with the settings that it has there: a run directory,
    RUN#NAME of a run with several, or a directory of PEFT's files. On the same model."""
    frozen: bool = False
    """Keep its parameters as they begin."""
    learning_rate_factor: float = 10.0
    """Its learning rate over `optimizer.learning_rate`, which is meant for training everything."""

    def __post_init__(self):
        check_above_zero(self, "learning_rate_factor")

    def rate_factor(self, parameter: str) -> float:
        """That of one of its parameters, named without the adapter's name."""
        del parameter
        return self.learning_rate_factor

    @property
    def trains(self) -> tuple[str, ...]:
        """Patterns of the model's own parameters that are trained: none."""
        return ()

    def trains_beside(self, modules: Sequence[str]) -> Sequence[str]:
        """Patterns of the model's own parameters that are trained, where these modules are changed:
        paths, one for all layers of a stack."""
        del modules
        return self.trains

    @property
    def is_stored(self) -> bool:
        """Whether it has parameters of its own, which may come from elsewhere."""
        return not self.trains

    @property
    def fixed(self) -> Sequence[str]:
        """Those of its parameters that are kept as they begin, without the adapter's name."""
        return ()

    @property
    def wanted(self) -> Sequence[str]:
        """The targets, each of which must be somewhere in the model."""
        return ()

    @property
    def same_throughout(self) -> Sequence[str]:
        """Settings that say what its parameters are of, whatever their shapes: with others they
        cannot be gone on with."""
        return ()

    @property
    def is_of_all_rows(self) -> bool:
        """Whether it is one for all rows of a batch: rows cannot choose among several."""
        return False

    def prepared(self, tokenizer: Tokenizer) -> Self:
        """The method as a run keeps it, with what it takes from the tokenizer. Raises UserError."""
        del tokenizer
        return self

    @property
    def uses(self) -> Sequence[str]:
        """The names of other adapters that it takes over, which then are not on their own."""
        return ()

    def joined(self, parts: Mapping[str, "Method"]) -> Adapter:
        """The adapter that a model has of it.

        Args:
          parts: what it uses, by name.

        Raises:
          UserError: one that it cannot use.
        """
        del parts
        return self

    def check(self, model: ModelConfig) -> None:
        """Refuses a model that it cannot change. Raises UserError."""

    @property
    def folded(self) -> "Method":
        """The method that computes what this one does once it is trained; most often itself."""
        return self

    def fold(self, added: Arrays) -> Arrays:
        """The parameters of `folded` for these, of one module and layer."""
        return added

    @property
    def is_in_tied_output(self) -> bool:
        """Whether a table of tokens that it changes is changed where it is the output, too."""
        return False

    def merge(self, path: str, own: Arrays, added: Arrays) -> dict[str, jax.Array]:
        """The module's parameters as they would be without the adapter, to the same effect.

        Args:
          path: of the module, in a stack one for all layers; the arrays are those of one layer.
          own: the module's parameters, `kernel`, `bias` or `embedding`, in float32 at least.
          added: the adapter's there, without its name.

        Raises:
          UserError: no parameters of the model do what the adapter does.
        """
        raise UserError(
            f"what {self.name} adds is nothing that the model's own parameters could do",
            where=path,
            expected="lora, ia3, tokens, bitfit or norms",
            got=self.name,
            fix="keep the adapter beside the model",
        )

    def peft_config(self) -> dict[str, Any]:
        """What `adapter_config.json` of the library PEFT says of it, but for targets.

        Raises:
          UserError: PEFT has no such method.
        """
        raise self._unknown_to_peft()

    def peft_tensors(
        self, paths: Sequence[str], parts: Sequence[Arrays | None], sizes: Sequence[int]
    ) -> Any:
        """A module's tensors for PEFT, {ending of the name: array}.

        Args:
          paths: of the parts, ours.
          parts: the adapter's arrays for each of the projections that are one there, one layer's;
            None where it has none.
          sizes: how many outputs each has.
        """
        raise self._unknown_to_peft()

    def _unknown_to_peft(self) -> UserError:
        return UserError(
            "PEFT cannot read this adapter",
            where=f"peft, {self.name}",
            expected="lora, ia3, tokens, prompt or prefix",
            got=self.name,
            fix="it is used with jaxssl (predict, generate, ...), from its run directory",
        )


def is_target(path: str, targets: Sequence[str]) -> bool:
    """Whether a projection or a table is one of the targets: `query`, `attention/query`, or a
    pattern over paths such as `encoder/layers/attention/*`.

    Args:
      path: of the site, one for all layers of a stack.
    """
    if ALL_LINEAR in targets and "/layers/" in path:
        return True
    return any(path.endswith(f"/{target}") or matches(target, path) for target in targets)


def product(site: Site, x: jax.Array, kernel: jax.Array, num_in: int) -> jax.Array:
    """x [B, ..., *in] times a parameter of the site [*in, *out], or each row's own [B, *in, *out]:
    [B, ..., *out]."""

    def times(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return linear(x, kernel, None, num_in, site.precision)

    return jax.vmap(times)(x, kernel) if site.is_by_row else times(x, kernel)


def check_targets(targets: Sequence[str], where: str) -> None:
    """Refuses none, and one without a name. Raises UserError."""
    if not targets or "" in targets:
        raise UserError(
            "no targets are named",
            where=where,
            expected=f"names such as query, value, feed_forward/up, or {ALL_LINEAR}",
            got=list(targets),
        )

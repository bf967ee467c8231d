"""Replaced token detection (ELECTRA, Clark et al., 2020; DeBERTa-v3, He et al., 2021).

A generator fills masks, and the main network, the discriminator, says of every token whether it is
the original one. Sources: google-research/electra, run_pretraining.py and
pretrain/pretrain_helpers.py; microsoft/DeBERTa, DeBERTa/apps/tasks/rtd_task.py.

Departures: masked places are drawn without replacement, so 15% of the tokens are masked (there
13.8%, since some are drawn twice); one optimizer updates both networks (DeBERTa-v3 has two).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.keys import example_keys
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.models.heads import MASKED_LM, REPLACED_TOKENS, Head
from jaxssl.models.model import Model, ModelConfig
from jaxssl.models.network import Network, Tie
from jaxssl.objectives.base import Loss, Outputs, Sums
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.slots import gathered
from jaxssl.ops.losses import filled_chunks
from jaxssl.ops.ranking import area, separation

NAME, GENERATOR = "replaced_tokens", "generator"
SAMPLES = 1 << 24
"""What a row's key is folded with for the generator's samples."""
SHARED = ("tokens", "positions", "token_types", "norm")
"""Parts of the embeddings that both networks have."""


@dataclass(frozen=True, kw_only=True)
class Generator:
    """The network that fills masks: a smaller one of the same family."""

    layers: float = 1.0
    """Its layers, as a share of the discriminator's. DeBERTa-v3 has half."""
    width: float = 0.25
    """Its width and that of its feed-forward layers, as a share of the discriminator's. ELECTRA has
    a quarter in small and large, a third in base; the released small one has 1."""
    num_heads: int | None = None
    """Its attention heads; null is one for each 64 of its width, at least one."""

    def __post_init__(self):
        check_above_zero(self, "layers", "width")
        check_at_least(1, self, "num_heads")

    def of(self, model: ModelConfig) -> ModelConfig:
        """Its configuration beside a discriminator.

        Raises:
          UserError: a width that the family cannot have.
        """
        hidden = round(model.hidden_size * self.width)
        heads = self.num_heads or max(1, hidden // 64)
        try:
            return dataclasses.replace(
                model,
                num_layers=max(1, round(model.num_layers * self.layers)),
                hidden_size=hidden,
                intermediate_size=max(1, round(model.intermediate_size * self.width)),
                num_heads=heads,
                segments=(),
            )
        except UserError as error:  # of names that a recipe has for the discriminator alone
            raise UserError(
                f"there is no generator of hidden_size={hidden} with {heads} heads: {error.what}",
                where="objective.generator.width, num_heads",
                expected="a share of the width that the generator's heads divide",
                got=f"{self.width:g} of hidden_size={model.hidden_size}, heads: {self.num_heads}",
                fix="give objective.generator.num_heads, or another width",
            ) from error


@dataclass(frozen=True, kw_only=True)
class ReplacedTokens(MaskedLm):
    """Tell which tokens a generator has put in the place of others."""

    name: Literal["replaced_tokens"] = "replaced_tokens"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The objective."""
    mask_share: float = 0.85
    """Share of the chosen that become the mask token."""
    random_share: float = 0.0
    """Share of the chosen that become a random token; what is left stays as it is."""
    generator: Generator = Generator()
    """The network that fills masks."""
    embeddings: Literal["shared", "disentangled", "separate"] = "shared"
    """Of both networks: shared, as in ELECTRA; the discriminator's is the generator's without a
    gradient and a difference of its own, as in DeBERTa-v3; or each its own."""
    weight: float = 50.0
    """Factor of the discriminator's loss."""
    temperature: float = 1.0
    """What the generator's logits are divided by before a token is drawn."""

    def __post_init__(self):
        super().__post_init__()
        check_above_zero(self, "weight", "temperature")

    @property
    def heads(self) -> tuple[Head, ...]:
        """One number for each token."""
        return (REPLACED_TOKENS,)

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Nats for each token that the generator guesses, and for each that may be replaced."""
        return {**super().losses, NAME: Loss(self.weight, shown="replaced tokens")}

    def networks(self, model: ModelConfig) -> Mapping[str, Network]:
        """The generator, and who borrows whose embeddings."""
        config = self.generator.of(_without_pooler(model))
        body = model.body()
        rows = {"positions": body.position_rows, "token_types": body.type_rows}
        absent = {part for part, count in rows.items() if not count}
        absent |= set() if body.embedding_norm else {"norm"}
        parts = [f"embeddings/{part}" for part in SHARED if part not in absent]
        own = [Tie(part, part) for part in parts] if self.embeddings == "shared" else []
        networks = {GENERATOR: Network(config, (MASKED_LM,), tuple(own))}
        if self.embeddings == "disentangled":
            tables = [part for part in parts if not part.endswith("norm")]
            theirs = [Tie(p, f"{GENERATOR}/{p}", stop_gradient=True, added=True) for p in tables]
            networks[""] = Network(ties=tuple(theirs))
        return networks

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """As a masked language model; embeddings can be shared where both have one width."""
        super().check(model, vocabulary)
        theirs = self.generator.of(_without_pooler(model)).embedding_width
        if self.embeddings != "separate" and theirs != model.embedding_width:
            raise UserError(
                "embeddings of two widths cannot be shared",
                where="objective.generator.width",
                expected="1, or a model with embedding_size such as electra, "
                "or objective.embeddings=separate",
                got=f"{self.generator.width} of hidden_size={model.hidden_size}",
                fix="set model.name=electra, with model.embedding_size="
                f"{model.hidden_size} for embeddings of this width",
            )

    def keeps_pooler(self, model: ModelConfig) -> bool:
        """No: every token counts."""
        return False

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """As a masked language model; adds `original` int32 [B, T], and `sample_keys` uint32
        [B, 2]: what the generator puts in depends on seed, epoch and example alone, too."""
        keys = jax.vmap(jax.random.fold_in, (0, None))(example_keys(seed, batch), SAMPLES)
        masked = super().corrupt(batch, seed, vocabulary)
        more = {"original": batch["tokens"], "sample_keys": jax.random.key_data(keys)}
        return {**masked, **more}

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The number of chosen tokens, and of all tokens."""
        return {**super().weights(batch), NAME: jnp.sum(_real(batch))}

    def forward(
        self, model: Model, params: Params, batch: Batch, key: jax.Array | None
    ) -> dict[str, Any]:
        """What the generator makes of the masked rows, the rows with its guesses in them, and what
        the discriminator makes of those."""
        generator = model.network(GENERATOR)
        guesses = generator.encode(params, batch, key)
        filled = self._filled(generator, params, guesses, batch)
        hidden = model.encode(params, {**batch, "tokens": filled}, key)
        return {"guesses": guesses, "filled": filled, "hidden": hidden}

    def _filled(
        self, generator: Model, params: Params, hidden: jax.Array, batch: Batch
    ) -> jax.Array:
        """The original tokens, with a draw of the generator's where one was chosen: [B, T]. No
        gradient flows through it; logits of `chunk` slots exist at once, and each slot has a key of
        its own, whatever the chunk."""
        positions = batch["mask_positions"]
        slots, T = positions.shape[1], hidden.shape[1]
        chunks = filled_chunks(jax.lax.stop_gradient(gathered(hidden, positions)), self.chunk)
        count, size = chunks.shape[0], chunks.shape[2]
        numbers = jnp.arange(count * size).reshape(count, size)
        head = jax.lax.stop_gradient(generator.head_params(params, "masked_lm"))

        def draw(given):
            numbers, hidden = given
            logits = generator.head(head, "masked_lm", hidden) / self.temperature

            def one(data, row):
                key = jax.random.wrap_key_data(data)
                keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
                return jax.vmap(jax.random.categorical)(keys, row)

            return jax.vmap(one)(batch["sample_keys"], logits)

        drawn = jax.lax.map(draw, (numbers, chunks))  # [C, B, P / C]
        drawn = jnp.moveaxis(drawn, 0, 1).reshape(len(positions), -1)[:, :slots]
        where = jnp.where(batch["mask_weights"] > 0, positions, T)
        rows = jnp.arange(len(positions))[:, None]
        drawn = drawn.astype(batch["tokens"].dtype)
        return jnp.asarray(batch["original"]).at[rows, where].set(drawn, mode="drop")

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Cross entropy of the generator's guesses, and of the discriminator's answers."""
        generator = model.network(GENERATOR)
        made = super().sums(generator, params, {"hidden": outputs["guesses"]}, batch, key)
        score = model.head(params, NAME, outputs["hidden"], key, batch.get("row"))[..., 0]
        real, replaced = _real(batch), _replaced(outputs, batch)
        loss = jnp.sum((jnp.logaddexp(0.0, score) - score * replaced) * real)
        parted = separation(jax.lax.stop_gradient(score), replaced, real)
        chosen = jnp.sum(batch["mask_weights"])
        metrics = {
            f"nll/{NAME}": (loss, jnp.sum(real)),
            **{f"{metric}/{NAME}": pair for metric, pair in parted.items()},
            "accuracy/samples": (chosen - jnp.sum(replaced), chosen),
        }
        return Sums({**made.losses, NAME: loss}, {**made.metrics, **metrics})

    def finish(self, metric: str, total: Any, weight: Any) -> dict[str, float]:
        """The area under the curve of two histograms; else the quotient."""
        if metric == f"auc/{NAME}":
            return {metric: area(total, weight)}
        return super().finish(metric, total, weight)


def _without_pooler(model: ModelConfig) -> ModelConfig:
    if not model.body().pooler:
        return model
    return dataclasses.replace(model, pooler=False)  # pyright: ignore[reportCallIssue]


def _real(batch: Batch) -> jax.Array:
    """float32 [B, T]; 0 of padding."""
    return (batch["segment_ids"] > 0).astype(jnp.float32)


def _replaced(outputs: Outputs, batch: Batch) -> jax.Array:
    """float32 [B, T]; 1 where the token is another than the original: a lucky guess is not."""
    return (outputs["filled"] != batch["original"]).astype(jnp.float32)

"""Which parameters a program reads, and which its losses depend on: found without computing any."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.interpreters import partial_eval

from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import changed_by
from jaxssl.core.types import Params, Vocabulary
from jaxssl.models.adapters import is_at_rest
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model
from jaxssl.objectives.base import all_sums, total_loss
from jaxssl.optim.weight_decay import parameter_names
from jaxssl.program.program import Stream
from jaxssl.program.step import make_eval_step

DECODERS = {"decoder", "decoder_embeddings", "decoder_norm"}
"""The parts that an encoder-decoder writes with."""


def unread(model: Model, streams: Sequence[Stream], vocabulary: Vocabulary) -> list[str]:
    """The parameters that neither a loss nor a prediction reads, by path; but for those of adapters
    in layers that these do not change."""
    params = unbox(model.abstract())
    names = jax.tree.leaves(parameter_names(params))
    left = [name for name in names if not is_at_rest(model.adapters, name)]
    evaluating = [(s, make_eval_step(model, s.objective, vocabulary, seed=0)) for s in streams]
    training = [(stream, _loss_of(model, stream, vocabulary)) for stream in streams]
    for stream, step in [*evaluating, *training]:  # what training alone reads is rare
        if left:
            jaxpr = jax.make_jaxpr(step)(params, stream.batch).jaxpr
            _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
            read = {name for name, is_used in zip(names, used) if is_used}
            left = [name for name in left if name not in read]
    return left


def check_read(model: Model, streams: Sequence[Stream], vocabulary: Vocabulary) -> list[str]:
    """Refuses parameters that nothing reads: they would be trained to nothing, or, where they were
    meant to change what the model computes, be left out of it in silence.

    Returns:
      The parts that the configuration asks for all the same, as a pooler can be.

    Raises:
      UserError: names them.
    """
    names = unread(model, streams, vocabulary)
    parts = [_part(name, model) for name in names]
    wrong = [name for name, part in zip(names, parts) if part not in model.optional_parts]
    if wrong:
        fix = "leave them out of the model, or add the objective that they are for"
        unread_parts = {changed_by(name).split("/")[0] for name in wrong}
        if model.config.encoder_decoder and unread_parts <= DECODERS:
            fix = "set model.part=encoder: the encoder is a model of its own, as BERT is one"
        raise UserError(
            "the model has parameters that nothing reads",
            where="model",
            expected="parameters that a loss or a prediction depends on",
            got=", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            fix=fix,
        )
    return sorted(set(parts))


def _part(name: str, model: Model) -> str:
    """The beginning of a parameter's path: its part of the main network, or of another."""
    depth = 2 if model.network_of(name) else 1
    return "/".join(name.split("/")[:depth])


def reached(
    model: Model, streams: Sequence[Stream], vocabulary: Vocabulary
) -> dict[str, frozenset[str]]:
    """{stream: the parameters that its losses depend on, by path}: those whose gradient is not zero
    whatever the values are, as it is behind a `stop_gradient`."""
    params = unbox(model.abstract())
    names = jax.tree.leaves(parameter_names(params))
    found = {}
    for stream in streams:
        gradient = jax.grad(_loss_of(model, stream, vocabulary))
        jaxpr = jax.make_jaxpr(gradient)(params, stream.batch).jaxpr
        found[stream.name] = frozenset(
            name for number, name in enumerate(names) if _depends(jaxpr, number)
        )
    return found


def _loss_of(model: Model, stream: Stream, vocabulary: Vocabulary) -> Any:
    """A stream's loss of (params, batch), in training."""
    objective, key = stream.objective, jax.random.key(0)

    def loss(params: Params, batch: Mapping[str, jax.Array]) -> jax.Array:
        corrupted = {**batch, **objective.corrupt(batch, 0, vocabulary)}
        outputs = objective.forward(model, params, corrupted, key)
        losses = all_sums(objective, model, params, outputs, corrupted, key).losses
        return total_loss(objective, losses, objective.weights(corrupted))

    return loss


def _depends(jaxpr: Any, output: int) -> bool:
    """Whether an output of a jaxpr depends on any input."""
    wanted = [number == output for number in range(len(jaxpr.outvars))]
    _, used = partial_eval.dce_jaxpr(jaxpr, wanted)
    return any(used)

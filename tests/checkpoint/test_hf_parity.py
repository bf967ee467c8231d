"""Every family against `transformers` on torch: its files, read here, give its numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the parity tests compare with torch")

import hf_models  # noqa: E402

from jaxssl.checkpoint.hf.directory import open_model  # noqa: E402
from jaxssl.checkpoint.hf.mapping import layers_of  # noqa: E402
from jaxssl.checkpoint.hf.safetensors import Reader, open_file  # noqa: E402
from jaxssl.checkpoint.hf.writing import write_directory  # noqa: E402
from jaxssl.core.layer_names import is_stacked  # noqa: E402
from jaxssl.core.names import flatten, unflatten  # noqa: E402
from jaxssl.models.layers import unbox  # noqa: E402

FORWARD, GRADIENTS = 1e-5, 1e-4


@functools.cache
def imported(case, root):
    """(torch model, our model, our parameters, what was read)."""
    reference = hf_models.reference(case)
    found = open_model(hf_models.save(reference, root / case))
    shapes = flatten(unbox(found.model.abstract()))
    assert found.leaves().keys() == shapes.keys()
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)
    params = {name: found.read(name, wanted(leaf)) for name, leaf in shapes.items()}
    return reference, found.model, unflatten(params), found


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("hf")


@functools.cache
def our_step(model):
    """A jitted (params, rows, targets) -> (loss, (hidden states, logits)), gradients; a target
    below 0 does not count. Compiled once for both sides of padding."""

    def forward(params, rows, targets):
        hidden = model.encode(params, rows)
        logits = model.head(params, model.heads[0].name, hidden)
        kept = targets >= 0
        chosen = jnp.where(kept, targets, 0)[..., None]
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, -1)[..., 0]
        return jnp.sum(losses * kept) / kept.sum(), (hidden, logits)

    return jax.jit(jax.value_and_grad(forward, has_aux=True))


def relative(ours, theirs, real=None):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if real is not None:
        ours, theirs = ours[real], theirs[real]
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def differences(case, side, root):
    """{what: relative difference}, in the L2 norm, of hidden states, logits, loss and gradients,
    of these the largest of a parameter; and those that are zero, {parameter: our norm}."""
    reference, model, params, found = imported(case, root)
    rows = hf_models.batch(side)
    real = rows["segment_ids"] > 0
    if reference.config.model_type == "distilbert":  # it counts padding, too
        rows["positions"] = np.broadcast_to(np.arange(hf_models.T, dtype=np.int32), real.shape)
    head = model.heads[0].name
    labels = np.where(real, (rows["tokens"] * 7) % hf_models.VOCAB, -100)
    if head == "causal_lm":
        first = real & ~np.pad(real, ((0, 0), (1, 0)))[:, :-1]
        labels = np.where(first, -100, labels)  # nothing predicts a text's first token
    reference.zero_grad()
    inputs = hf_models.torch_inputs(reference, rows)
    out = reference(**inputs, labels=torch.tensor(labels).long(), output_hidden_states=True)
    out.loss.backward()

    targets = np.pad(labels, ((0, 0), (0, 1)), constant_values=-100)[:, head == "causal_lm" :]
    targets = targets[:, : hf_models.T]
    (loss, (hidden, logits)), gradients = our_step(model)(params, rows, targets)
    theirs, ours = their_gradients(reference, found, params), flatten(gradients)
    zero = {name for name in ours if np.linalg.norm(theirs[name]) <= 1e-6}
    apart = {
        "hidden states": relative(hidden, out.hidden_states[-1].detach(), real),
        "logits": relative(logits, out.logits.detach(), real),
        "loss": abs(float(loss) - out.loss.item()) / out.loss.item(),
        "gradients": max(relative(ours[name], theirs[name]) for name in ours.keys() - zero),
    }
    return apart, {name: float(np.linalg.norm(ours[name])) for name in zero}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("case", hf_models.CASES)
def test_hidden_states_logits_loss_and_gradients_are_those_of_transformers(case, side, root):
    apart, zero = differences(case, side, root)
    gradients = apart.pop("gradients")
    assert gradients < GRADIENTS
    assert max(apart.values()) < FORWARD, apart
    assert all("key/bias" in name for name in zero), zero  # it moves no softmax
    assert max(zero.values(), default=0.0) < 1e-5, zero


@pytest.mark.parametrize("case", hf_models.CASES)
def test_what_is_written_back_has_the_same_bits_and_gives_the_same_numbers(case, root):
    reference, model, params, found = imported(case, root)
    out = root / f"{case} again"
    out.mkdir()
    flat = flatten(params)
    heads = {head: head for head in found.heads}
    parameters = {name: [value] for name, value in flat.items()}
    more = {"pad_token_id": reference.config.pad_token_id}  # not one of the family's, far above
    name = write_directory(out, model.config, heads, parameters, dtype="float32", more=more)
    assert name == type(reference).__name__
    ours, theirs = (
        open_file(out / "model.safetensors"),
        open_file(root / case / "model.safetensors"),
    )
    assert ours.keys() | found.family.repeated.keys() >= theirs.keys() >= ours.keys()
    reader = Reader()
    for key, tensor in ours.items():
        assert np.array_equal(reader.view(tensor), reader.view(theirs[key])), key
    again = type(reference).from_pretrained(out, attn_implementation="eager").eval()
    inputs = hf_models.torch_inputs(reference, hf_models.batch("right"))
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, reference(**inputs).logits)


def their_gradients(reference, found, params):
    """Torch's gradients as ours, by the mapping."""
    prefix = found.family.prefix
    by_name = {name.removeprefix(prefix): p.grad for name, p in reference.named_parameters()}
    shapes = {name: x.shape for name, x in flatten(params).items()}
    result = {}
    for name, pair in found.pairs.items():
        inner = shapes[name][1:] if is_stacked(name) else shapes[name]
        parts = {
            layer: pair.take(by_name[there].numpy(), inner)
            for layer, there in layers_of(pair, found.config)
        }
        if None in parts:
            result[name] = parts[None]
        else:
            zeros = np.zeros(inner, np.float32)
            result[name] = np.stack([parts.get(i, zeros) for i in range(found.config.num_layers)])
    return result

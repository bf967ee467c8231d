"""Both families against `transformers` on torch: the same weights give the same numbers."""

import functools

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the parity tests compare with torch")
transformers = pytest.importorskip("transformers", reason="the reference models")

import tiny  # noqa: E402

from jaxssl.core.names import flatten, unflatten  # noqa: E402
from jaxssl.models.model import Model  # noqa: E402
from jaxssl.objectives.base import total_loss  # noqa: E402
from jaxssl.objectives.causal_lm import CausalLm  # noqa: E402
from jaxssl.objectives.combine import Combine, Term  # noqa: E402
from jaxssl.objectives.masked_lm import MaskedLm  # noqa: E402
from jaxssl.objectives.next_sentence import NextSentence  # noqa: E402

H, N, L, T = 24, 3, 2, 16  # an odd number of heads
FORWARD, GRADIENTS = 1e-5, 1e-4
SHAPE = dict(hidden_size=H, num_heads=N, num_layers=L, intermediate_size=40)
PRETRAINING = Combine(terms=(Term(objective=MaskedLm()), Term(objective=NextSentence())))


# --- Weights, torch to ours -------------------------------------------------------------------


def heads_out(w):  # [in, out] to [in, N, D]
    return w.reshape(*w.shape[:-1], N, H // N)


def heads_in(w):  # [in, out] to [N, D, out]
    return w.reshape(N, H // N, -1)


def stacked(get):
    layers = [get(i) for i in range(L)]
    return {name: np.stack([layer[name] for layer in layers]) for name in layers[0]}


def bert_tree(values):
    """Our tree out of {torch name: array}; linear, so it maps gradients as well."""
    get = lambda name: values[name]
    dense = lambda to, name: {
        f"{to}/kernel": get(f"{name}.weight").T,
        f"{to}/bias": get(f"{name}.bias"),
    }
    norm = lambda to, name: {
        f"{to}/scale": get(f"{name}.weight"),
        f"{to}/bias": get(f"{name}.bias"),
    }

    def layer(i):
        prefix = f"bert.encoder.layer.{i}."
        out = {}
        for name in ("query", "key", "value"):
            source = f"{prefix}attention.self.{name}"
            out[f"attention/{name}/kernel"] = heads_out(get(f"{source}.weight").T)
            out[f"attention/{name}/bias"] = heads_out(get(f"{source}.bias"))
        source = f"{prefix}attention.output.dense"
        out["attention/output/kernel"] = heads_in(get(f"{source}.weight").T)
        out["attention/output/bias"] = get(f"{source}.bias")
        out |= norm("attention_norm", f"{prefix}attention.output.LayerNorm")
        out |= dense("feed_forward/up", f"{prefix}intermediate.dense")
        out |= dense("feed_forward/down", f"{prefix}output.dense")
        return out | norm("feed_forward_norm", f"{prefix}output.LayerNorm")

    flat = {f"encoder/layers/{name}": value for name, value in stacked(layer).items()}
    for ours, theirs in (
        ("tokens", "word"),
        ("positions", "position"),
        ("token_types", "token_type"),
    ):
        flat[f"embeddings/{ours}/embedding"] = get(f"bert.embeddings.{theirs}_embeddings.weight")
    flat |= norm("embeddings/norm", "bert.embeddings.LayerNorm")
    flat |= dense("pooler", "bert.pooler.dense")
    flat |= dense("masked_lm/transform", "cls.predictions.transform.dense")
    flat |= norm("masked_lm/norm", "cls.predictions.transform.LayerNorm")
    flat["masked_lm/bias"] = get("cls.predictions.bias")
    flat |= dense("next_sentence/output", "cls.seq_relationship")
    return unflatten(flat)


def gpt2_tree(values):
    get = lambda name: values[f"transformer.{name}"]

    def layer(i):
        out = {}
        for part, name in (("weight", "kernel"), ("bias", "bias")):
            split = np.split(get(f"h.{i}.attn.c_attn.{part}"), 3, axis=-1)
            for which, value in zip(("query", "key", "value"), split):
                out[f"attention/{which}/{name}"] = heads_out(value)
            for to, source in (("attention_norm", "ln_1"), ("feed_forward_norm", "ln_2")):
                scale = "scale" if part == "weight" else "bias"
                out[f"{to}/{scale}"] = get(f"h.{i}.{source}.{part}")
            out[f"feed_forward/up/{name}"] = get(f"h.{i}.mlp.c_fc.{part}")
            out[f"feed_forward/down/{name}"] = get(f"h.{i}.mlp.c_proj.{part}")
        out["attention/output/kernel"] = heads_in(get(f"h.{i}.attn.c_proj.weight"))
        out["attention/output/bias"] = get(f"h.{i}.attn.c_proj.bias")
        return out

    flat = {f"decoder/layers/{name}": value for name, value in stacked(layer).items()}
    flat["embeddings/tokens/embedding"] = get("wte.weight")
    flat["embeddings/positions/embedding"] = get("wpe.weight")
    flat["norm/scale"], flat["norm/bias"] = get("ln_f.weight"), get("ln_f.bias")
    return unflatten(flat)


def parameters(module):
    return {name: p.detach().numpy() for name, p in module.named_parameters(remove_duplicate=False)}


def gradients(module):
    return {
        name: (torch.zeros_like(p) if p.grad is None else p.grad).numpy()
        for name, p in module.named_parameters(remove_duplicate=False)
    }


def randomised(module):
    """Every parameter random (the defaults have zero biases), the tied ones still tied."""
    generator = torch.Generator().manual_seed(1)
    for name, p in module.named_parameters():
        norm = p.ndim == 1 and name.endswith("weight")
        p.data = 0.15 * torch.randn(p.shape, generator=generator) + float(norm)
    module.tie_weights()
    return module.eval()


@functools.cache
def torch_bert(activation):
    config = transformers.BertConfig(
        vocab_size=tiny.VOCAB,
        hidden_size=H,
        num_attention_heads=N,
        num_hidden_layers=L,
        intermediate_size=40,
        max_position_embeddings=32,
        hidden_act=activation,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return randomised(transformers.BertForPreTraining(config))


@functools.cache
def torch_gpt2():
    config = transformers.GPT2Config(
        vocab_size=tiny.VOCAB,
        n_embd=H,
        n_head=N,
        n_layer=L,
        n_inner=40,
        n_positions=32,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
    )
    return randomised(transformers.GPT2LMHeadModel(config))


# --- Batches ----------------------------------------------------------------------------------

LENGTHS = (16, 9, 5, 11, 4, 7, 16, 2)


def batch_of(packed):
    """(batch, [(row, start, document)]): documents of uneven lengths, alone or packed in rows."""
    documents = tiny.random_documents(LENGTHS)
    grouped = tiny.pack(documents, T) if packed else [[d] for d in documents]
    batch = tiny.rows(grouped, length=T, count=len(LENGTHS))
    places = []
    for i, row in enumerate(grouped):
        starts = np.cumsum([0] + [len(d) for d in row])
        places += [(i, start, document) for start, document in zip(starts, row)]
    return batch, places


def with_labels(batch, places):
    """Token types, mask labels at every third token and next sentence labels."""
    types, labels = np.zeros((2, *batch["tokens"].shape), np.int32)
    chosen = np.zeros_like(types, bool)
    rng = np.random.default_rng(3)
    for row, start, document in places:
        types[row, start + len(document) // 2 : start + len(document)] = 1
        chosen[row, start : start + len(document) : 3] = True
    labels[chosen] = rng.integers(0, tiny.VOCAB, chosen.sum())
    width = int(chosen.sum(axis=1).max())
    positions, targets = np.zeros((2, len(types), 8), np.int32)
    weights = np.zeros((len(types), 8), np.float32)
    assert width <= 8
    for i, row in enumerate(chosen):
        at = np.flatnonzero(row)
        positions[i, : len(at)], targets[i, : len(at)], weights[i, : len(at)] = at, labels[i, at], 1
    return {
        **batch,
        "token_types": types,
        "mask_positions": positions,
        "mask_labels": targets,
        "mask_weights": weights,
        "next_sentence": np.arange(len(types), dtype=np.int32) % 2,
    }, np.where(chosen, labels, -100)


@functools.cache
def evaluated(config, objective):
    """A jitted (params, batch) -> ((loss, hidden, logits, pooled), gradients)."""
    model = Model(config, objective.heads)

    def loss(params, batch):
        outputs = objective.forward(model, params, batch, None)
        sums = objective.sums(model, params, outputs, batch)
        hidden = outputs.get("masked_lm", outputs)["hidden"]
        logits = model.head(params, objective.heads[0].name, hidden)
        pooled = model.pool(params, hidden) if len(objective.heads) > 1 else hidden
        extra = model.head(params, objective.heads[-1].name, pooled)
        return total_loss(objective, sums.losses, objective.weights(batch)), (
            hidden,
            logits,
            extra,
        )

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def close(got, want, tolerance, what, floor=0.0):
    error = np.abs(np.asarray(got) - want).max()
    assert error <= tolerance * max(np.abs(want).max(), floor), (what, error)


def gradients_close(got, want):
    got, want = flatten(got), flatten(want)
    assert got.keys() == want.keys()
    # A key's bias has a gradient of zero (a softmax ignores it): its rounding is measured against
    # the gradients of all leaves.
    floor = 1e-2 * max(np.abs(w).max() for w in want.values())
    for name in want:
        close(got[name], want[name], GRADIENTS, name, floor)


# --- Tests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ours, theirs", [("gelu", "gelu"), ("gelu_tanh", "gelu_new")])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_bert_equals_transformers(ours, theirs, packed):
    reference = torch_bert(theirs)
    reference.zero_grad()
    plain, places = batch_of(packed)
    batch, labels = with_labels(plain, places)
    params = bert_tree(parameters(reference))
    step = evaluated(tiny.bert(activation=ours, **SHAPE), PRETRAINING)
    (loss, (hidden, logits, pairs)), grads = step(params, batch)

    masked = pair_loss = torch.zeros(())
    real_rows = batch["segment_ids"][:, 0] > 0
    mask = batch["segment_ids"] > 0
    # Alone: one padded torch batch. Packed: each document by itself.
    runs = [(row, start, len(d)) for row, start, d in places] if packed else [(None, 0, T)]
    for row, start, length in runs:
        part = (slice(None) if row is None else slice(row, row + 1), slice(start, start + length))
        inside = mask[part]
        out = reference(
            input_ids=torch.tensor(batch["tokens"][part]).long(),
            attention_mask=torch.tensor(inside).long(),
            token_type_ids=torch.tensor(batch["token_types"][part]).long(),
            output_hidden_states=True,
        )
        close(
            hidden[part][inside], out.hidden_states[-1].detach().numpy()[inside], FORWARD, "hidden"
        )
        close(
            logits[part][inside], out.prediction_logits.detach().numpy()[inside], FORWARD, "logits"
        )
        target = torch.tensor(labels[part]).long()
        cross_entropy = torch.nn.functional.cross_entropy
        masked = masked + cross_entropy(
            out.prediction_logits.flatten(0, 1), target.flatten(), reduction="sum"
        )
        if start == 0:
            which = part[0]
            close(pairs[which], out.seq_relationship_logits.detach().numpy(), FORWARD, "pairs")
            pair_loss = pair_loss + cross_entropy(
                out.seq_relationship_logits,
                torch.tensor(batch["next_sentence"][which]).long(),
                reduction="sum",
            )
    total = masked / float(batch["mask_weights"].sum()) + pair_loss / float(real_rows.sum())
    total.backward()
    close(loss, total.item(), FORWARD, "loss")
    gradients_close(grads, bert_tree(gradients(reference)))


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_gpt2_equals_transformers(packed):
    reference = torch_gpt2()
    reference.zero_grad()
    plain, places = batch_of(packed)
    objective = CausalLm(chunk=8)
    batch = {
        name: np.asarray(x) for name, x in tiny.corrupted(objective, plain, 0, tiny.WORDS).items()
    }
    params = gpt2_tree(parameters(reference))
    (loss, (hidden, logits, _)), grads = evaluated(tiny.gpt2(**SHAPE), objective)(params, batch)

    total, count = torch.zeros(()), 0
    mask = batch["segment_ids"] > 0
    runs = [(row, start, len(d)) for row, start, d in places] if packed else [(None, 0, T)]
    for row, start, length in runs:
        part = (slice(None) if row is None else slice(row, row + 1), slice(start, start + length))
        inside = mask[part]
        ids = torch.tensor(batch["tokens"][part]).long()
        labels = torch.where(torch.tensor(inside), ids, -100)
        out = reference(
            input_ids=ids,
            attention_mask=torch.tensor(inside).long(),
            labels=labels,
            output_hidden_states=True,
        )
        close(
            hidden[part][inside], out.hidden_states[-1].detach().numpy()[inside], FORWARD, "hidden"
        )
        close(logits[part][inside], out.logits.detach().numpy()[inside], FORWARD, "logits")
        predicted = int((labels[:, 1:] != -100).sum())
        total, count = total + out.loss * predicted, count + predicted
    total = total / count
    total.backward()
    close(loss, total.item(), FORWARD, "loss")
    gradients_close(grads, gpt2_tree(gradients(reference)))

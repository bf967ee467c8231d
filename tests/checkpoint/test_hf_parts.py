"""One stack of an encoder-decoder against `transformers` on torch: an encoder in files of its own,
both ways, and the decoder beside theirs without an encoder."""

import functools
import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the parity tests compare with torch")

import hf_encoder_decoders as whole  # noqa: E402
import transformers  # noqa: E402

from jaxssl.checkpoint.hf.directory import open_model  # noqa: E402
from jaxssl.checkpoint.hf.writing import write_directory  # noqa: E402
from jaxssl.core.errors import UserError  # noqa: E402
from jaxssl.core.names import flatten, split, unflatten  # noqa: E402
from jaxssl.models.layers import unbox  # noqa: E402
from jaxssl.models.model import Model  # noqa: E402

ENCODERS = {
    "t5": "T5EncoderModel",
    "t5, 1.1": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "t5, tags": "T5ForTokenClassification",
}
DECODERS = ("t5", "t5, 1.1", "bart", "bart, scaled", "mbart")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("hf")


@functools.cache
def reference(case):
    """Theirs, with random parameters."""
    kind = getattr(transformers, ENCODERS[case])
    config = whole.reference(case.removesuffix(", tags")).config.__class__.from_dict(
        whole.reference(case.removesuffix(", tags")).config.to_dict()
    )
    config.num_labels = 5
    config._attn_implementation = "eager"
    model = kind(config).eval()
    generator = torch.Generator().manual_seed(2)
    for name, p in model.named_parameters():
        is_norm = p.ndim == 1 and name.endswith("weight")
        p.data = 0.15 * torch.randn(p.shape, generator=generator) + float(is_norm)
    body = getattr(model, "transformer", model)
    body.encoder.embed_tokens.weight = body.shared.weight  # as in every published file
    return model


def inputs(batch):
    return {
        "input_ids": torch.tensor(batch["tokens"]).long(),
        "attention_mask": torch.tensor(batch["segment_ids"]).long(),
    }


def read(path):
    """A directory's model and parameters."""
    found = open_model(path)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = flatten(unbox(found.model.abstract()))
    wanted = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)
    return found, unflatten({n: found.read(n, wanted(x)) for n, x in shapes.items()})


@pytest.mark.parametrize("case", ENCODERS)
def test_an_encoder_alone_is_read_and_written_again(case, root):
    model, place = reference(case), root / f"alone {case}"
    model.save_pretrained(place)
    found, params = read(place)
    assert found.config.part == "encoder" and not found.config.encoder_decoder
    batch = whole.rows(3, [whole.S, 6, 9], whole.S)
    real = batch["segment_ids"] > 0
    with torch.no_grad():
        theirs = model(**inputs(batch), output_hidden_states=True)
    hidden = found.model.encode(params, batch)
    assert whole.relative(hidden, theirs.hidden_states[-1], real) < 1e-5
    if "tags" in case:
        logits = found.model.head(params, "token", hidden)
        assert whole.relative(logits, theirs.logits, real) < 1e-5
    out = root / f"alone {case}, again"
    out.mkdir()
    parameters = {name: [value] for name, value in flatten(params).items()}
    heads = {head: head for head in found.heads}
    more = {"num_labels": 5} if heads else {}
    name = write_directory(out, found.config, heads, parameters, dtype="float32", more=more)
    assert name == ENCODERS[case]
    again = type(model).from_pretrained(out, attn_implementation="eager").eval()
    with torch.no_grad():
        written = again(**inputs(batch), output_hidden_states=True)
    assert torch.equal(written.hidden_states[-1], theirs.hidden_states[-1])
    assert open_model(out).config == found.config


def test_a_whole_file_that_lost_its_decoder_is_no_encoder(root, tmp_path):
    """Its class says what it is; one that names none is what its tensors make it."""
    model = whole.reference("t5")
    kept = {k: x for k, x in model.state_dict().items() if not k.startswith("decoder.")}
    model.save_pretrained(tmp_path, state_dict=kept)
    with pytest.raises(UserError, match="decoder"):
        open_model(tmp_path)
    given = json.loads((tmp_path / "config.json").read_text())
    del given["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(given))
    assert open_model(tmp_path).config.part == "encoder"


def part_of(case, part, root):
    """One stack of a whole model that was read: the same parameters without the others."""
    theirs, model, params, _ = whole.imported(case, root)
    config = model.config.__class__(**{**vars(model.config), "part": part})
    alone = Model(config, tuple(h for h in model.heads if part == "decoder"))
    names = flatten(unbox(alone.abstract())).keys()
    kept, others = split(params, lambda path: path in names)
    assert flatten(kept).keys() == names
    left = {path for path in flatten(others) if path.split("/")[0] != "causal_lm"}
    within = lambda path: any(path.startswith(f"{x}/") for x in config.left_out)
    assert left == {path for path in flatten(params) if within(path)}
    return theirs, model, params, alone, kept


@pytest.mark.parametrize("case", DECODERS)
def test_an_encoder_alone_says_what_it_says_in_the_whole(case, root):
    _, model, params, alone, kept = part_of(case, "encoder", root)
    batch = whole.rows(4, [whole.S, 8], whole.S)
    assert np.array_equal(alone.encode(kept, batch), model.encode(params, batch))


@pytest.mark.parametrize("case", DECODERS)
def test_a_decoder_alone_is_theirs_without_an_encoder(case, root):
    theirs, _, _, alone, kept = part_of(case, "decoder", root)
    assert alone.config.causal
    batch = whole.rows(5, [whole.S, 8], whole.S)
    real = batch["segment_ids"] > 0
    with torch.no_grad():
        wanted = theirs.get_decoder()(**inputs(batch)).last_hidden_state
    hidden = alone.encode(kept, batch)
    assert whole.relative(hidden, wanted, real) < 1e-5
    # With a cache: half of the tokens, then one after the other.
    cache, T = alone.empty_cache(2, whole.S), whole.S
    some = lambda start, end: {name: x[:, start:end] for name, x in batch.items()}
    made, cache = alone.decode(kept, some(0, T // 2), cache)
    parts = [made]
    for t in range(T // 2, T):
        made, cache = alone.decode(kept, some(t, t + 1), cache)
        parts.append(made)
    assert whole.relative(np.concatenate(parts, 1), wanted, real) < 1e-5


@pytest.mark.parametrize(
    "case, part", [("t5", "decoder"), ("bart", "encoder"), ("bart", "decoder")]
)
def test_parts_that_transformers_has_no_class_for_are_not_written(case, part, root, tmp_path):
    *_, alone, kept = part_of(case, part, root)
    heads = {head.name: head.name for head in alone.heads}
    parameters = {name: [value] for name, value in flatten(kept).items()}
    with pytest.raises(UserError, match=f"the {part} of a {case}"):
        write_directory(tmp_path, alone.config, heads, parameters, dtype="float32", more={})

"""Prompts and prefixes in PEFT's files: what PEFT makes of them on torch is what they do here, and
what it does otherwise is refused. In float64, since random networks amplify rounding."""

import dataclasses
import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference is peft on torch")
peft = pytest.importorskip("peft", reason="the reference is peft on torch")

import tiny  # noqa: E402
import transformers  # noqa: E402
from peft_cases import CASES, MORE, TASK_HEADS, V, case_of, written  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from jaxssl.checkpoint.hf.directory import open_model  # noqa: E402
from jaxssl.core.errors import UserError  # noqa: E402
from jaxssl.core.layer_names import ADAPTERS  # noqa: E402
from jaxssl.core.names import flatten, unflatten  # noqa: E402
from jaxssl.models.adapters import Attached  # noqa: E402
from jaxssl.models.layer_context import Memory  # noqa: E402
from jaxssl.transfer.peft.merge import fold_adapters, folded_model  # noqa: E402
from jaxssl.transfer.peft.prefix import Prefix  # noqa: E402
from jaxssl.transfer.peft.prompt import Prompt  # noqa: E402
from jaxssl.transfer.peft.reading import read_adapter  # noqa: E402

N, LONG, SHORT = 3, 9, 6
LEARNED = ("bert", "roberta", "electra", "gpt2", "rows", "tags", "spans", "masked", "causal rows")
"""Those whose positions are learned, of one stack."""
PROMPTED = [*CASES, *MORE.keys() - {"windows", "rows"}]
PREFIXED = [
    *("bert", "roberta", "electra", "gpt2", "llama", "qwen2", "qwen3", "mistral", "yarn"),
    *("bart", "mbart", "rows", "tags", "spans", "causal rows", "llama rows"),
]
OFTEN = ("bert", "llama", "bart")
"""Cases that are tested each time, others with the slow tests."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("peft")


def chosen(names):
    return [x if x in OFTEN else pytest.param(x, marks=pytest.mark.slow) for x in sorted(names)]


def prefix_of(case, **settings):
    if case in ("bart", "mbart"):
        return Prefix(length=N, where=("decoder",), takes_positions=True, **settings)
    return Prefix(length=N, takes_positions=case in LEARNED, **settings)


def adapted(case, method, root, scale=0.7):
    place, plain, base, name = case_of(case, root)
    model = dataclasses.replace(plain, adapters=(Attached("own", method),))
    drawn = tiny.random_params(model, seed=3, scale=scale)[ADAPTERS]
    folded = folded_model(model)
    params = fold_adapters(model, {**base, ADAPTERS: jax.tree.map(jax.numpy.asarray, drawn)})
    return place, folded, jax.tree.map(np.asarray, params), name


REAL = np.arange(LONG) < np.array([LONG, SHORT])[:, None]
"""The second text is shorter, and padded."""
IDS = np.where(REAL, np.random.default_rng(5).integers(3, V, (2, LONG)), 0).astype(np.int32)


def mine(model, params):
    """Hidden states of the last stack [B, T, H], in float64; with a head over rows its output."""
    model = dataclasses.replace(model, precision=tiny.FLOAT64)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jax.numpy.asarray(x, jax.numpy.float64), params)
        places = np.broadcast_to(np.arange(LONG, dtype=np.int32), IDS.shape)
        batch = {"tokens": IDS, "segment_ids": REAL.astype(np.int32), "positions": places}
        states = jax.jit(model.encode)(params, batch)
        if model.config.encoder_decoder:
            memory = jax.jit(model.memory)(params, batch)
            one = np.ones_like(IDS)
            memory = Memory(memory.hidden, memory.segment_ids)
            states = jax.jit(model.write)(params, {**batch, "segment_ids": one}, memory)
        return np.asarray(states), with_head(model, params, states)


def with_head(model, params, states):
    """What a task's head makes of the states, of whole texts [B, C]."""
    head = next((head.name for head in model.heads if head.name in TASK_HEADS), None)
    if head is None:
        return None
    if head == "row":
        last = states[np.arange(2), [LONG - 1, SHORT - 1]]
        states = last if model.config.causal else model.pool(params, states)
    return np.asarray(model.head(params, head, states))


def theirs(wrapped, model):
    """The same of PEFT's model, without what a prompt has put before the text."""
    ids, mask = torch.tensor(IDS).long(), torch.tensor(REAL).long()
    two_sided = model.config.encoder_decoder
    more = {"decoder_input_ids": ids} if two_sided else {}
    with torch.no_grad():
        out = wrapped(input_ids=ids, attention_mask=mask, output_hidden_states=True, **more)
    last = out.decoder_hidden_states if two_sided else out.hidden_states
    if "start_logits" in out:
        made = torch.stack([out.start_logits, out.end_logits], dim=-1)
    else:
        made = out.get("logits")
    return last[-1].numpy()[:, -LONG:], None if made is None else made.numpy()


def seen(model):
    """Places that are compared: all that a decoder writes, all but padding else."""
    return np.ones_like(REAL) if model.config.encoder_decoder else REAL


def compare(model, params, wrapped, bound=1e-5):
    (one, scores), (other, logits), real = mine(model, params), theirs(wrapped, model), seen(model)
    base = {name: x for name, x in params.items() if name != ADAPTERS}
    none, _ = mine(dataclasses.replace(model, adapters=()), base)
    if scores is not None:
        if scores.ndim == 3:  # of tokens
            scores, logits = scores[REAL], logits[:, -LONG:][REAL]
        elif model.config.causal and model.lead:  # PEFT's takes the last place, padding or not
            scores, logits = scores[:1], logits[:1]
        assert np.abs(scores - logits).max() <= bound * np.abs(scores).max()
    size = np.abs(one[real]).max()
    assert np.abs(one - none)[real].max() > 1e-2 * size, "the adapter does something"
    difference = float(np.abs(one - other)[real].max() / size)
    assert difference <= bound, f"{difference:.1e} of the largest"
    return difference


def loaded(place, name, out):
    reference = getattr(transformers, name).from_pretrained(place, attn_implementation="eager")
    return peft.PeftModel.from_pretrained(reference.eval(), out).eval().double()


def read_again(out, place, plain, base):
    """The model with what is read of PEFT's files."""
    read = read_adapter(out, open_model(place))
    model = dataclasses.replace(plain, adapters=(Attached("own", read.method),))
    flat = {
        f"{ADAPTERS}/{module}/own_{leaf}": x
        for module, arrays in read.modules.items()
        for leaf, x in arrays.items()
    }
    return model, unflatten({**flatten(base), **read.trained, **flat}), read


def difference(case, kind, root, out):
    """Of the last hidden states, over the largest, from what PEFT makes of the written files."""
    method = Prompt(length=N) if kind == "prompt" else prefix_of(case)
    place, model, params, name = adapted(case, method, root)
    written(place, model, params, name, out)
    return compare(model, params, loaded(place, name, out))


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        pytest.param(*x.values, "prompt", marks=x.marks)
        if not isinstance(x, str)
        else (x, "prompt")
        for x in chosen(PROMPTED)
    ]
    + [
        pytest.param(*x.values, "prefix", marks=x.marks)
        if not isinstance(x, str)
        else (x, "prefix")
        for x in chosen(PREFIXED)
    ],
)
def test_peft_reads_what_is_written_and_it_comes_back(case, kind, root, tmp_path):
    method = Prompt(length=N) if kind == "prompt" else prefix_of(case)
    place, model, params, name = adapted(case, method, root)
    out = written(place, model, params, name, tmp_path / "adapter")
    compare(model, params, loaded(place, name, out))
    base = {k: x for k, x in params.items() if k != ADAPTERS}
    again, theirs, read = read_again(out, place, dataclasses.replace(model, adapters=()), base)
    assert read.method == method
    flat, back = flatten(params), flatten(theirs)
    assert flat.keys() == back.keys()
    for path, x in flat.items():
        np.testing.assert_allclose(back[path], x, rtol=0, atol=1e-6 * np.abs(x).max())


@pytest.mark.parametrize("case", chosen(PROMPTED))
def test_a_prompt_that_peft_made_does_the_same(case, root, tmp_path):
    made_by_peft(case, peft.PromptTuningConfig, root, tmp_path)


@pytest.mark.parametrize("case", chosen(PREFIXED))
def test_a_prefix_that_peft_made_does_the_same(case, root, tmp_path):
    made_by_peft(case, peft.PrefixTuningConfig, root, tmp_path)


TASKS = {
    "Model": "FEATURE_EXTRACTION",
    "EncoderModel": "FEATURE_EXTRACTION",
    "LMHeadModel": "CAUSAL_LM",
    "ForCausalLM": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForMaskedLM": "FEATURE_EXTRACTION",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}


def made_by_peft(case, make, root, out, **settings):
    """An adapter that PEFT made and saved, with what it trains besides."""
    place, plain, base, name = case_of(case, root)
    ending = {**CASES, **MORE}[case][1]
    sizes = {"electra": dict(token_dim=16), "distilbert": dict(token_dim=24)}.get(case, {})
    sizes = {} if "prefix" in make.__name__.lower() else sizes
    reference = getattr(transformers, name).from_pretrained(place, attn_implementation="eager")
    more = {"num_virtual_tokens": N, "task_type": TASKS[ending], **sizes, **settings}
    if case == "distilbert":
        more |= {"num_layers": 2, "num_attention_heads": 3}
    if case == "mbart" and "Prefix" in make.__name__:
        more |= {"num_layers": 3}
    wrapped = peft.get_peft_model(reference.eval(), make(**more)).eval()
    generator = torch.Generator().manual_seed(8)
    for p in wrapped.parameters():
        if p.requires_grad:
            p.data = p.data + 0.2 * torch.randn(p.shape, generator=generator)
    wrapped.save_pretrained(out)
    model, params, read = read_again(out, place, plain, base)
    assert bool(read.trained) == (TASKS[ending] in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"))
    compare(model, params, wrapped.double())
    return read


# --- P-tuning, projections, and what is refused ---------------------------------------------------


def test_what_a_network_made_is_written_and_read(root, tmp_path):
    """P-tuning's and a projection's: PEFT saves what they give, as here."""
    prompt = Prompt(length=N, encoder="mlp", encoder_hidden_size=16)
    for case, method in (("gpt2", prompt), ("llama", prefix_of("llama", projection_size=10))):
        place, model, params, name = adapted(case, method, root)
        out = written(place, model, params, name, tmp_path / case)
        compare(model, params, loaded(place, name, out))
    read = made_by_peft("gpt2", peft.PromptEncoderConfig, root, tmp_path / "theirs")
    assert read.method == Prompt(length=N)
    settings = dict(prefix_projection=True, encoder_hidden_size=10)
    read = made_by_peft("llama", peft.PrefixTuningConfig, root, tmp_path / "wide", **settings)
    assert read.method == Prefix(length=N)


@pytest.mark.parametrize(
    ("case", "method", "reason"),
    [
        ("rows", Prompt(length=N), "take a virtual token for the whole text"),
        ("windows", Prompt(length=N), "windows"),
        ("windows", Prefix(length=N), "windows"),
        ("t5", Prefix(length=N, where=("decoder",)), "relative positions"),
        ("modernbert", Prefix(length=N), "takes no keys and values"),
        ("distilbert", Prefix(length=N), "takes no keys and values"),
        ("gpt2", Prefix(length=N), "takes_positions"),
        ("bart", Prefix(length=N, takes_positions=True), "peft.where"),
    ],
)
def test_what_peft_does_otherwise_is_refused(case, method, reason, root, tmp_path):
    place, model, params, name = adapted(case, method, root)
    with pytest.raises(UserError) as caught:
        written(place, model, params, name, tmp_path / "adapter")
    assert reason in f"{caught.value.where} {caught.value.got} {caught.value.fix}"
    if "PEFT does" not in caught.value.what:
        return
    kind = {"prompt": peft.PromptTuningConfig, "prefix": peft.PrefixTuningConfig}[method.name]
    sizes = dict(token_dim=24, num_layers=2, num_attention_heads=3)
    reference = getattr(transformers, name).from_pretrained(place, attn_implementation="eager")
    task = TASKS[{**CASES, **MORE}[case][1]]
    settings = kind(num_virtual_tokens=N, task_type=task, **sizes)
    wrapped = peft.get_peft_model(reference.eval(), settings).eval()
    wrapped.save_pretrained(tmp_path / "theirs")
    with pytest.raises(UserError, match="PEFT does something else"):
        read_adapter(tmp_path / "theirs", open_model(place))


@pytest.mark.parametrize(
    ("case", "make"),
    [
        ("windows", peft.PromptTuningConfig),
        ("windows", peft.PrefixTuningConfig),
        ("rows", peft.PromptTuningConfig),
        ("t5", peft.PrefixTuningConfig),
        ("modernbert", peft.PrefixTuningConfig),
        ("distilbert", peft.PrefixTuningConfig),
    ],
)
def test_it_is_refused_since_it_is_something_else(case, make, root, tmp_path, monkeypatch):
    """Without the check, what is read would do something else, or PEFT's would do nothing."""
    monkeypatch.setattr("jaxssl.transfer.peft.virtual.check_model", lambda *_: None)
    sizes = dict(token_dim=24, num_layers=2, num_attention_heads=3)
    with pytest.raises((AssertionError, RuntimeError)):
        made_by_peft(case, make, root, tmp_path / "theirs", **(sizes if "distil" in case else {}))


def test_learned_positions_are_left_to_a_prefix(root):
    """A prefix that takes positions is one that does not, in a model whose table begins later."""
    for case in ("gpt2", "bert", "bart"):
        place, model, params, _ = adapted(case, prefix_of(case), root)
        plain = dataclasses.replace(model.adapters[0].method, takes_positions=False)
        other = dataclasses.replace(model, adapters=(Attached("own", plain),))
        moved = flatten(params)
        part = "decoder_embeddings" if case == "bart" else "embeddings"
        path = f"{part}/positions/embedding"
        moved[path] = np.roll(moved[path], -N, axis=0)
        one, two = mine(model, params)[0], mine(other, unflatten(moved))[0]
        np.testing.assert_array_equal(one, two)
        assert np.abs(one - mine(other, params)[0]).max() > 1e-2
        assert model.max_positions == other.max_positions - N
    with pytest.raises(UserError, match="no learned positions"):
        Prefix(takes_positions=True).check(case_of("llama", root)[1].config)
    with pytest.raises(UserError, match="leaves no position"):
        Prefix(length=1024, takes_positions=True).check(case_of("gpt2", root)[1].config)


def test_a_table_that_does_not_fit_is_told(root, tmp_path):
    for case, method, change, error in (
        ("llama", Prompt(length=N), lambda x: {"prompt_embeddings": x[:2].copy()}, "does not fit"),
        ("llama", Prefix(length=N), lambda x: {"prompt_embeddings": x[:, :8].copy()}, "does not"),
        ("llama", Prefix(length=N), lambda x: {"base_model.x": x}, "no place for"),
        ("llama", Prefix(length=N), lambda x: {"model.x": x}, "not a file of an adapter"),
        ("llama", Prefix(length=N), lambda x: {}, "lacks a tensor"),
    ):
        place, model, params, name = adapted(case, method, root)
        out = written(place, model, params, name, tmp_path / "adapter")
        path = out / "adapter_model.safetensors"
        save_file(change(load_file(path)["prompt_embeddings"]), path)
        with pytest.raises(UserError, match=error):
            read_adapter(out, open_model(place))


def test_the_task_of_an_adapter_is_one_that_peft_knows(root, tmp_path):
    for case, wanted in (("masked", "FEATURE_EXTRACTION"), ("bart", "SEQ_2_SEQ_LM")):
        place, model, params, name = adapted(case, Prompt(length=N), root)
        out = written(place, model, params, name, tmp_path / case)
        assert json.loads((out / "adapter_config.json").read_text())["task_type"] == wanted

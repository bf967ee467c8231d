"""UL2's denoisers: the counts of each, their shares, and that both sides together are the text."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from two_sides import END, IDS, SENTINELS, inverted, made_of, rows, texts
from two_sides import WORDS as BARE

from jaxssl.core.config import build
from jaxssl.core.config.layers import parse_override
from jaxssl.core.errors import UserError
from jaxssl.data.corpus.sources import Docstrings
from jaxssl.data.tokenizer.training import TokenizerTrainConfig
from jaxssl.models.t5 import T5Config
from jaxssl.objectives.ul2 import SEVEN, Denoiser, Ul2

MODES = {"[NLU]": 801, "[NLG]": 802, "[S2S]": 803}
WORDS = dataclasses.replace(BARE, special_tokens={**SENTINELS, **MODES})
MODEL = T5Config(vocab_size=1024)
PAPER = {  # mode, and (mean, rate, spans), of section 3.1.2; the mean of S is a quarter of the text
    0: ("[NLU]", 3, 0.15),
    1: ("[NLU]", 8, 0.15),
    2: ("[NLG]", 3, 0.5),
    3: ("[NLG]", 8, 0.5),
    4: ("[NLG]", 64, 0.15),
    5: ("[NLG]", 64, 0.5),
    6: ("[S2S]", None, 0.25),
}
SEQUENTIAL = Ul2(denoisers=(Denoiser(mode="sequential", rate=0.25),))


def alone(number):
    return Ul2(denoisers=(SEVEN[number],))


def counts(number, length):
    """Noisy tokens and spans by the formula of T5's helper; Python rounds half to even, too."""
    _, mean, rate = PAPER[number]
    noise = min(max(round(length * rate), 1), length - 1)
    return noise, 1 if mean is None else max(1, round(noise / mean))


def of_row(made, i):
    """Inputs and targets of the only text of a row, without padding."""
    inputs, targets = (made[side][i] for side in ("tokens", "targets"))
    return (
        inputs[made["segment_ids"][i] > 0].tolist(),
        targets[made["targets_segment_ids"][i] > 0].tolist(),
    )


@pytest.mark.parametrize("number", PAPER)
@pytest.mark.parametrize("length", [16, 64, 300, 512])
def test_each_denoiser_alone_fills_the_rows_of_the_model(number, length):
    objective = alone(number)
    raw = objective.raw_length(length)
    noise, spans = counts(number, raw)
    # 1 for the mode and 1 for the end; one token more would be too long on one of the sides
    assert objective.lengths(raw) == (raw - noise + spans + 2, noise + spans + 1)
    assert max(objective.lengths(raw)) <= length
    more, more_spans = counts(number, raw + 1)
    assert max(raw + 1 - more + more_spans + 2, more + more_spans + 1) > length


@pytest.mark.parametrize("number", PAPER)
def test_each_denoiser_has_its_counts_and_both_sides_are_the_text(number):
    objective = alone(number)
    raw = objective.raw_length(64)
    batch, (noise, spans) = rows(8, raw, seed=number), counts(number, raw)
    made = made_of(batch, objective, vocabulary=WORDS)
    assert (made["positions"] == np.arange(made["tokens"].shape[1])).all()
    for i in range(8):
        inputs, targets = of_row(made, i)
        assert inputs[0] == MODES[PAPER[number][0]] and inputs[-1] == targets[-1] == END
        assert sum(token in IDS for token in inputs) == spans
        assert len(targets) == noise + spans + 1
        assert inverted(inputs[1:-1], targets) == batch["tokens"][i].tolist()


def test_all_seven_share_rows_that_the_least_corrupting_one_fills():
    """567 tokens: T5's 568 for 512 but for the mode, and half of them in spans of 3 are 380."""
    objective = Ul2()
    raw = objective.raw_length(512)
    assert (raw, *objective.lengths(raw)) == (567, 512, 380)
    assert raw == min(alone(number).raw_length(512) for number in PAPER)
    made = jax.eval_shape(lambda batch: objective.corrupt(batch, 0, WORDS), rows(4, raw))
    assert made["tokens"].shape == (4, 512) and made["targets"].shape == (4, 380)


def test_the_sequential_one_cuts_off_a_quarter_at_the_end():
    batch = rows(6, SEQUENTIAL.raw_length(64))
    made = made_of(batch, SEQUENTIAL, vocabulary=WORDS)
    raw = batch["tokens"].shape[1]
    kept = raw - round(raw / 4)
    for i, text in enumerate(batch["tokens"]):
        inputs, targets = of_row(made, i)
        assert inputs == [MODES["[S2S]"], *text[:kept], SENTINELS["<extra_id_0>"], END]
        assert targets == [SENTINELS["<extra_id_0>"], *text[kept:], END]


def drawn(made, raw):
    """The denoiser of each row, by the mode and by how much there is to write."""
    numbers = {}
    for number, (mode, *_) in PAPER.items():
        numbers[MODES[mode], sum(counts(number, raw)) + 1] = number
    assert len(numbers) == 7
    lengths = (made["targets_segment_ids"] > 0).sum(1)
    return np.array([numbers[pair] for pair in zip(made["tokens"][:, 0].tolist(), lengths)])


@pytest.mark.parametrize("weights", [None, (3, 1, 1, 2, 1, 1, 5)])
def test_texts_draw_their_denoisers_by_the_weights(weights):
    count, raw = 6000, 140
    shares, given = np.array([*[0.8 / 6] * 6, 0.2]), SEVEN
    if weights is not None:
        given = tuple(dataclasses.replace(d, weight=float(w)) for d, w in zip(SEVEN, weights))
        shares = np.array(weights) / sum(weights)
    found = drawn(made_of(rows(count, raw), Ul2(denoisers=given), vocabulary=WORDS), raw)
    expected = count * shares
    # chi squared, 6 degrees, p = 0.001
    assert ((np.bincount(found, minlength=7) - expected) ** 2 / expected).sum() < 22.5


def test_both_sides_of_all_are_the_text_again():
    batch = rows(64, 140, seed=1)
    made = made_of(batch, Ul2(), vocabulary=WORDS)
    assert {*drawn(made, 140)} == {*PAPER}
    for i, text in enumerate(batch["tokens"]):
        inputs, targets = of_row(made, i)
        assert inverted(inputs[1:-1], targets) == text.tolist()


@jax.jit
def _apart(batch, seed):
    return {**batch, **Ul2(joined=False).corrupt(batch, seed, WORDS)}


def apart(batch, seed):
    return jax.tree.map(np.asarray, _apart(batch, seed))


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
def test_documents_apart_draw_their_own_and_nothing_crosses(lengths, seed):
    lengths = [n for i, n in enumerate(lengths) if sum(lengths[: i + 1]) <= 128]
    batch = rows(1, 128, seed)
    segments = np.zeros(128, np.int32)
    segments[: sum(lengths)] = np.repeat(np.arange(len(lengths)) + 1, lengths)
    batch |= {"segment_ids": segments[None], "tokens": batch["tokens"] * (segments > 0)}
    made = apart(batch, seed)
    before = texts(batch["tokens"][0], segments)
    inputs = texts(made["tokens"][0], made["segment_ids"][0])
    targets = texts(made["targets"][0], made["targets_segment_ids"][0])
    assert inputs.keys() == before.keys()
    for number, text in before.items():
        written, read = targets.get(number, []), inputs[number]
        if len(text) < 16:
            assert (read, written) == (text, [])
            continue
        assert len(read) <= len(text) and inverted(read[1:], written) == text
        spans = sum(token in IDS for token in read)
        of_mode = [n for n, (mode, *_) in PAPER.items() if MODES[mode] == read[0]]
        assert (len(written) - 1 - spans, spans) in [counts(n, len(text)) for n in of_mode]
    for side in ("", "targets_"):
        found = made[f"{side}segment_ids"][0]
        for number in {*found} - {0}:
            inside = np.flatnonzero(found == number)
            assert (np.diff(inside) == 1).all()
            assert made[f"{side}positions"][0][inside].tolist() == list(range(len(inside)))


def test_documents_of_a_row_do_not_draw_alike():
    batch = rows(300, 128)
    batch["segment_ids"] = np.repeat([[1, 2, 3, 4]], 32, axis=1).repeat(300, axis=0)
    made = apart(batch, 3)
    first = made["positions"] == 0
    modes = [made["tokens"][i][first[i] & (made["segment_ids"][i] > 0)] for i in range(300)]
    share = np.mean([row[0] == row[1] for row in modes])
    expected = (2 * 0.8 / 6) ** 2 + (4 * 0.8 / 6) ** 2 + 0.2**2
    assert share == pytest.approx(expected, abs=4 * np.sqrt(expected / 300))


def test_corruption_goes_by_seed_epoch_and_example_alone():
    batch = rows(8, 128)
    whole, some = apart(batch, 7), apart({name: x[3:5] for name, x in batch.items()}, 7)
    for name in ("tokens", "targets"):
        assert np.array_equal(whole[name][3:5], some[name])
    for changed in (apart({**batch, "epoch": batch["epoch"] + 1}, 7), apart(batch, 8)):
        assert not np.array_equal(changed["targets"], whole["targets"])


def test_without_mode_tokens_inputs_are_those_of_span_corruption_as_t5_counts():
    plain = Ul2(denoisers=SEVEN[:1], regular_token=None)
    assert (plain.raw_length(512), *plain.lengths(568)) == (568, 512, 114)
    plain.check(MODEL, BARE)  # which has no mode tokens


def test_a_tokenizer_without_mode_tokens_is_refused_with_a_command_that_works():
    with pytest.raises(UserError) as error:
        Ul2().check(MODEL, BARE)
    assert "[NLU], [NLG], [S2S]" in str(error.value)
    assert error.value.fix is not None and "sentinels=100" in error.value.fix
    quoted = error.value.fix.split("'")[1]  # as a shell hands it on
    layer = {"source": {"name": "docstrings"}, "out": "here"}
    given = build(TokenizerTrainConfig, {**layer, **parse_override(quoted)})
    assert given.special_tokens == ("[NLU]", "[NLG]", "[S2S]") and given.source == Docstrings()


def test_a_tokenizer_without_sentinels_is_refused():
    with pytest.raises(UserError, match="special tokens for spans"):
        Ul2().check(MODEL, dataclasses.replace(WORDS, special_tokens=MODES))
    with pytest.raises(UserError) as error:  # 189 spans of 3 in half of 1,135 tokens
        jax.eval_shape(lambda batch: Ul2().corrupt(batch, 0, WORDS), rows(2, 1135))
    assert "at least 189" in str(error.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"denoisers": ()}, "no way to corrupt"),
        ({"shortest": 20}, "of no meaning with joined=true"),
    ],
)
def test_what_does_not_go_together_is_refused(given, said):
    with pytest.raises(UserError, match=said):
        Ul2(**given)


def test_a_mean_span_is_not_taken_by_what_cuts_one():
    with pytest.raises(UserError, match="mean_span: of no meaning"):
        Denoiser(mode="sequential", rate=0.25, mean_span=4.0)


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        ({"shortest": 9}, "set objective.shortest=10"),
        ({"denoisers": (Denoiser(mode="regular", rate=0.15, mean_span=1.0),)}, "longer spans"),
        ({"shortest": 65}, None),
    ],
)
def test_documents_that_would_grow_are_refused(given, fix):
    with pytest.raises(UserError) as error:
        Ul2(joined=False, **given).raw_length(64)
    assert (fix or "at most 64") in str(error.value)
    assert Ul2(joined=False, shortest=10).raw_length(64) == 64


def test_a_recipe_can_give_denoisers():
    made = build(Ul2, {"denoisers": [{"mode": "sequential", "rate": 0.25}]})
    assert made == SEQUENTIAL

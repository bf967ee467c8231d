"""Denoising: how much of a text is noise, that nothing else happens to it, and that the variant
`fairseq` draws as a plain simulation of that algorithm does."""

import dataclasses
import functools
import itertools
import math
from collections import Counter
from typing import Any

import jax
import numpy as np
import pytest
import tiny
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from two_sides import texts

from jaxssl.core.errors import UserError
from jaxssl.models.bart import BartConfig
from jaxssl.objectives.denoising import Denoising
from jaxssl.run.tokenizers import make_vocabulary

SIZE, FIRST, STOPS = 1200, 20, 1000
"""Ids: special ones, words from `FIRST` on, of which every third goes on with one, full stops."""
MASK, CLS, SEP = (tiny.SPECIALS[role] for role in ("mask", "cls", "sep"))
IDS = np.arange(SIZE)
WORDS = dataclasses.replace(
    tiny.vocabulary(SIZE, word_starts=IDS % 3 != 0), find_sentence_ends=lambda: IDS >= STOPS
)
MODEL = BartConfig(vocab_size=SIZE, hidden_size=8, num_heads=2, num_layers=1)
NOTHING: Any = {"infilling": 0.0, "permuted": 0.0}
POISSON = [math.exp(-3) * 3**k / math.factorial(k) for k in range(40)]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _made(batch, objective, vocabulary, seed):
    return {**batch, **objective.corrupt(batch, seed, vocabulary)}


def made_of(batch, objective, seed=7, vocabulary=WORDS):
    return jax.tree.map(np.asarray, _made(batch, objective, vocabulary, seed))


def row_of(*documents, length=None):
    """One row of documents, whose tokens are all different ones."""
    return tiny.rows([[np.array(document, np.int32) for document in documents]], length=length)


def copies(batch, count):
    """The same row many times, told apart by the example's id."""
    ids = np.stack([np.zeros(count), np.arange(count)], 1).astype(np.uint32)
    repeated = {name: np.repeat(x, count, axis=0) for name, x in batch.items()}
    return {**repeated, "example_id": ids}


def inputs_of(made):
    """The tokens of each row's only document."""
    return [row[kept > 0].tolist() for row, kept in zip(made["tokens"], made["segment_ids"])]


def many(document, objective, count, seed=7):
    """What is read of `document`, so many times."""
    return inputs_of(made_of(copies(row_of(document), count), objective, seed))


def assert_shares(found, expected):
    """Chi squared of outcomes against their probabilities: none is missing, none is strange."""
    counted, total = Counter(found), len(found)
    assert counted.keys() <= expected.keys(), counted.keys() - expected.keys()
    assert sum(expected.values()) == pytest.approx(1)
    differences = [(counted[k] - total * p) ** 2 / (total * p) for k, p in expected.items()]
    assert sum(differences) < chi2.ppf(0.9999, len(expected) - 1)


def assert_alike(found, simulated):
    """Chi squared of two samples of numbers; rare ones are taken together."""
    assert len(found) == len(simulated)
    edges = np.unique(np.quantile(simulated, np.linspace(0, 1, 13)))
    a, b = (np.bincount(np.searchsorted(edges, x), minlength=20) for x in (found, simulated))
    some = a + b > 0
    assert ((a - b)[some] ** 2 / (a + b)[some]).sum() < chi2.ppf(0.9999, some.sum() - 1)


# --- How much -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    shares=st.sampled_from(
        [(0.3, 0, 0), (0, 0.15, 0), (0, 0, 0.6), (0.35, 0.1, 0.2), (0.3, 0.3, 0.3), (0.9, 0, 0)]
    ),
    seed=st.integers(0, 1000),
)
def test_each_document_has_the_counts_of_the_formula_and_nothing_crosses(lengths, shares, seed):
    lengths = [n for i, n in enumerate(lengths) if sum(lengths[: i + 1]) <= 128]
    ids = iter(np.random.default_rng(seed).permutation(np.arange(FIRST, STOPS)))
    documents = [[int(next(ids)) for _ in range(n)] for n in lengths]
    batch = row_of(*documents, length=128)
    infilling, masked, deleted = shares
    objective = Denoising(infilling=infilling, masked=masked, deleted=deleted, permuted=0)
    made = made_of(batch, objective, seed)
    found = texts(made["tokens"][0], made["segment_ids"][0])
    assert found.keys() == {i + 1 for i in range(len(lengths))}
    for number, document in enumerate(documents, start=1):
        n, inputs = len(document), found[number]
        cut = round(n * infilling)
        single = min(round(n * masked), n - cut)
        left_out = min(round(n * deleted), n - cut - single - (cut + single == 0))
        kept = [token for token in inputs if token != MASK]
        assert kept == [token for token in document if token in kept]
        assert len(kept) == n - cut - single - left_out
        spans = inputs.count(MASK) - single
        assert (cut > 0) <= spans <= cut
        inside = np.flatnonzero(made["segment_ids"][0] == number)
        assert (np.diff(inside) == 1).all()
        assert made["positions"][0][inside].tolist() == list(range(len(inside)))
    used = made["segment_ids"][0] > 0
    assert (made["tokens"][0][~used] == 0).all() and not made["positions"][0][~used].any()


def test_a_row_of_512_has_154_tokens_in_spans_every_time():
    document = np.arange(FIRST, FIRST + 512)
    for inputs in many(document, Denoising(), 64):
        assert sum(token != MASK for token in inputs) == 512 - 154  # round(153.6)


def test_spans_and_masks_put_in_are_as_many_as_poisson_draws_make():
    """512 tokens, 154 in spans: draws until their sum is that, empty ones counted."""
    found = [
        inputs.count(MASK) for inputs in many(np.arange(FIRST, FIRST + 512), Denoising(), 3000)
    ]
    rng = np.random.default_rng(0)
    sums = np.cumsum(rng.poisson(3, (3000, 154)), axis=1)
    assert_alike(found, np.argmax(sums >= 154, axis=1) + 1)


def test_spans_stand_at_every_place_as_likely():
    """Four tokens, two of them in spans, by hand: every length and every order of them."""
    document, expected = [20, 22, 23, 25], Counter()
    lengths = {(2,): 1 - POISSON[0] - POISSON[1], (1, 1): POISSON[1], (0, 2): POISSON[0]}
    for spans, share in lengths.items():
        orders = [*itertools.permutations([*spans, None, None])]  # None is a token that is kept
        for order in orders:
            at, inputs = 0, []
            for span in order:
                inputs.append(document[at] if span is None else MASK)
                at += 1 if span is None else span
            expected[tuple(inputs)] += share / len(orders)
    objective = Denoising(infilling=0.5, permuted=0)
    assert_shares([tuple(inputs) for inputs in many(document, objective, 9000)], expected)


@pytest.mark.parametrize("kind", ["masked", "deleted"])
def test_every_choice_of_single_tokens_is_as_likely(kind):
    document, expected = [20, 22, 23, 25, 26], {}
    for chosen in itertools.combinations(document, 2):
        mark = [MASK] if kind == "masked" else []
        inputs = [[*mark] if token in chosen else [token] for token in document]
        expected[tuple(sum(inputs, []))] = 1 / 10
    found = many(document, Denoising(**{**NOTHING, kind: 0.4}), 6000)
    assert_shares([tuple(inputs) for inputs in found], expected)


def test_a_share_of_the_masks_are_random_tokens_and_no_special_ones():
    document = np.arange(FIRST, FIRST + 100)
    batch = copies(row_of(document), 400)
    plain = made_of(batch, Denoising(**NOTHING | {"masked": 0.5}))["tokens"]
    made = made_of(batch, Denoising(**NOTHING | {"masked": 0.5}, random_share=0.25))["tokens"]
    of_masks = made[plain == MASK]
    assert (made[plain != MASK] == plain[plain != MASK]).all()
    share, count = np.mean(of_masks != MASK), of_masks.size
    assert share == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / count))
    others = of_masks[of_masks != MASK]
    assert not np.isin(others, WORDS.reserved).any()
    assert others.min() < FIRST and others.max() > SIZE - 10


# --- Order --------------------------------------------------------------------------------------

SENTENCES = [[20, 22, 1000], [23, 1001, 1002], [25, 26, 28, 1003], [29]]
DOCUMENT = sum(SENTENCES, [])


def test_sentences_come_in_every_order_as_likely():
    expected = {
        tuple(sum(order, [])): 1 / math.factorial(4) for order in itertools.permutations(SENTENCES)
    }
    found = many(DOCUMENT, Denoising(infilling=0), 6000)
    assert_shares([tuple(inputs) for inputs in found], expected)


def test_half_of_the_sentences_change_places_among_themselves():
    """Two of four: each of the six pairs is drawn as often, and changes round half of the time."""
    expected = {tuple(DOCUMENT): 1 / 2}
    for a, b in itertools.combinations(range(4), 2):
        order = [*range(4)]
        order[a], order[b] = b, a
        expected[tuple(sum((SENTENCES[i] for i in order), []))] = 1 / 12
    found = many(DOCUMENT, Denoising(infilling=0, permuted=0.5), 6000)
    assert_shares([tuple(inputs) for inputs in found], expected)


def test_texts_begin_at_every_token_as_likely():
    document = [20, 22, 23, 25]
    turned = [tuple(document[i:] + document[:i]) for i in range(4)]
    always, half = (Denoising(**NOTHING, rotated=share) for share in (1.0, 0.5))
    found = [tuple(inputs) for inputs in many(document, always, 4000)]
    assert_shares(found, dict.fromkeys(turned, 1 / 4))
    found = [tuple(inputs) for inputs in many(document, half, 4000)]
    assert_shares(found, {t: 1 / 8 + (t == tuple(document)) / 2 for t in turned})


def test_what_is_left_of_a_sentence_stays_together():
    sentences = [[20 + 10 * i, 21 + 10 * i, 22 + 10 * i, 1000 + i] for i in range(8)]
    place = {token: (i, j) for i, part in enumerate(sentences) for j, token in enumerate(part)}
    objective = Denoising(infilling=0.2, masked=0.1, deleted=0.2)
    for inputs in many(sum(sentences, []), objective, 100):
        kept = [place[token] for token in inputs if token != MASK]
        groups = [[*group] for _, group in itertools.groupby(kept, key=lambda found: found[0])]
        assert len(groups) == len({number for number, _ in kept})
        assert all(group == sorted(group) for group in groups)


# --- What stays ---------------------------------------------------------------------------------


def framed_rows(count, seed=0):
    """Packed documents, most of them between CLS and SEP, some with a SEP in their middle."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        document = []
        while sum(map(len, document)) < 80:
            n = int(rng.integers(1, 40))
            inside = rng.choice(np.arange(FIRST, STOPS), n, replace=False).tolist()
            inside = [1000 + i % 7 if rng.random() < 0.2 else x for i, x in enumerate(inside)]
            part = [CLS, *inside, SEP] if rng.random() < 0.8 else inside
            document.append([*part[: n // 2], SEP, *part[n // 2 :]] if n > 20 else part)
        rows.append([np.array(part, np.int32) for part in document])
    return tiny.rows(rows, length=128)


ALL = (
    Denoising(),
    Denoising(infilling=0.3, masked=0.2, deleted=0.2, rotated=1.0, random_share=0.5, permuted=0.7),
    Denoising(variant="fairseq", rotated=0.5, random_share=0.1),
    Denoising(variant="fairseq", infilling=0.9, mean_span=1.0),
    Denoising(variant="fairseq", infilling=0, deleted=0.6, permuted=0.4),
)


@pytest.mark.parametrize("objective", ALL)
def test_targets_are_the_text_and_special_tokens_keep_their_order_and_surroundings(objective):
    batch = framed_rows(24)
    made = made_of(batch, objective)
    assert np.array_equal(made["targets"], batch["tokens"])
    assert np.array_equal(made["targets_segment_ids"], batch["segment_ids"])
    assert np.array_equal(made["targets_positions"], batch["positions"])
    assert made["tokens"].shape == batch["tokens"].shape
    frame = (CLS, SEP)
    for i in range(24):
        before = texts(batch["tokens"][i], batch["segment_ids"][i])
        after = texts(made["tokens"][i], made["segment_ids"][i])
        assert before.keys() == after.keys()
        for number, text in before.items():
            parts = [split(x, frame) for x in (text, after[number])]
            assert [x for x in text if x in frame] == [x for x in after[number] if x in frame]
            for whole, left in zip(*parts):
                assert len(left) <= len(whole)
                if not objective.random_share:
                    assert not Counter(x for x in left if x != MASK) - Counter(whole)


def split(tokens, frame):
    """What stands between special tokens."""
    parts = [[]]
    for token in tokens:
        parts.append([]) if token in frame else parts[-1].append(token)
    return parts


def test_a_document_without_anything_to_corrupt_stays():
    batch = row_of([CLS, SEP], [CLS], [20])
    made = made_of(batch, Denoising(rotated=1.0, permuted=1.0))
    assert made["tokens"].tolist() == batch["tokens"].tolist()
    deleted = made_of(row_of([20], [22, 23]), Denoising(**NOTHING, deleted=0.9))
    assert deleted["segment_ids"].tolist() == [[1, 2, 0]]  # each has something to be read


@pytest.mark.parametrize("objective", ALL[:3])
def test_noise_goes_by_seed_epoch_and_example_alone(objective):
    batch = framed_rows(8)
    whole = made_of(batch, objective)
    some = made_of({name: x[3:5] for name, x in batch.items()}, objective)
    for name in ("tokens", "segment_ids", "positions"):
        assert np.array_equal(whole[name][3:5], some[name])
    for changed in (
        made_of({**batch, "epoch": batch["epoch"] + 1}, objective),
        made_of(batch, objective, 8),
    ):
        assert not np.array_equal(changed["tokens"], whole["tokens"])


def test_documents_of_a_row_are_not_noised_alike():
    document = [*range(FIRST, FIRST + 16)]
    made = made_of(copies(row_of(document, document), 50), Denoising())
    halves = [texts(*row) for row in zip(made["tokens"], made["segment_ids"])]
    assert sum(row[1] == row[2] for row in halves) < 5


# --- fairseq ------------------------------------------------------------------------------------


def simulated(rng, document, rate, mean, *, permuted=1.0, rotated=0.0):
    """fairseq's noise of a list of tokens, in plain Python: a description of what it does."""
    tokens = in_new_order(rng, document, permuted)
    starts = [i for i, token in enumerate(tokens) if token % 3 != 0]
    budget, lengths = math.ceil(len(starts) * rate), []
    while sum(lengths) < budget:
        lengths.append(int(rng.poisson(mean)))
    lengths[-1] -= sum(lengths) - budget
    spans = [n for n in lengths if n]
    begins = rng.permutation(starts)[: len(spans)].tolist()
    starts, gone = {*starts}, set()
    for i, words in zip(begins, spans):
        while i + 1 < len(tokens):
            words -= i + 1 in starts
            if not words:
                break
            i += 1
            gone.add(i)
    left = [MASK if i in begins else t for i, t in enumerate(tokens) if i not in gone]
    put_in = len(lengths) - len(spans)
    where = rng.permutation(len(left) + put_in)[:put_in].tolist()
    kept = iter(left)
    made = [MASK if i in where else next(kept) for i in range(len(left) + put_in)]
    if rng.random() < rotated:
        offset = int(rng.integers(0, len(made) + 1))
        made = made[offset:] + made[:offset]
    return made


def in_new_order(rng, tokens, share):
    stops = [token >= STOPS for token in tokens[:-1]] + [True]
    ends = [i + 1 for i, s in enumerate(stops) if s and not (i and stops[i - 1])]
    sentences = [tokens[a:b] for a, b in zip([0, *ends], ends)]
    drawn = rng.permutation(len(sentences))[: math.ceil(len(sentences) * share)]
    order = [*range(len(sentences))]
    for i, j in zip(drawn, rng.permutation(drawn)):
        order[i] = j
    return sum((sentences[i] for i in order), []) + tokens[ends[-1] :]


def test_the_simulation_has_the_numbers_that_fairseq_itself_was_seen_to_have():
    """512 words, of which 30% are asked for: of what is read, masks, empty spans; run by us."""
    document, rng = [i for i in range(FIRST, STOPS) if i % 3][:512], np.random.default_rng(0)
    for mean, length, masks in ((3.0, 0.817, 42.6), (3.5, 0.803, 35.5)):
        runs = [simulated(rng, document, 0.3, mean) for _ in range(300)]
        assert np.mean([len(x) for x in runs]) / 512 == pytest.approx(length, abs=0.004)
        assert np.mean([x.count(MASK) for x in runs]) == pytest.approx(masks, abs=1.2)
        read = made_of(copies(row_of(document), 300), fairseq(mean_span=mean))
        assert np.mean(read["segment_ids"]) == pytest.approx(length, abs=0.004)
        assert np.mean(np.sum(read["tokens"] == MASK, 1)) == pytest.approx(masks, abs=1.2)


def fairseq(**changes):
    return Denoising(variant="fairseq", **changes)


TEXT = [*range(50, 62), 1000, *range(70, 75), 1001, 1002, *range(80, 103), 1003, *range(110, 115)]


@pytest.mark.parametrize(
    "given",
    [
        {"infilling": 0.3},
        {"infilling": 0.35, "mean_span": 3.5, "permuted": 0.5},
        {"infilling": 0.6, "mean_span": 1.5, "permuted": 0.0, "rotated": 0.7},
    ],
)
def test_fairseq_draws_as_a_plain_simulation_of_it_does(given):
    count, rng = 6000, np.random.default_rng(1)
    mean = given.get("mean_span", 3.0)
    options = {"permuted": given.get("permuted", 1.0), "rotated": given.get("rotated", 0.0)}
    plain = [simulated(rng, TEXT, given["infilling"], mean, **options) for _ in range(count)]
    found = many(TEXT, fairseq(**given), count)
    for number in (
        len,
        lambda inputs: inputs.count(MASK),
        lambda inputs: sum(a == b == MASK for a, b in itertools.pairwise(inputs)),
        lambda inputs: inputs.index(MASK),
        lambda inputs: next((x for x in inputs if x != MASK), 0),
        lambda inputs: next((x for x in inputs[::-1] if x != MASK), 0),
        lambda inputs: sum(b - a == 1 for a, b in itertools.pairwise(inputs)),
    ):
        assert_alike(*(np.array([number(inputs) for inputs in x]) for x in (found, plain)))
    # How often each token is left, and how often each is at a place
    for test in (lambda x, t: t in x, lambda x, t: x[0] == t, lambda x, t: x[-1] == t):
        a, b = (np.array([sum(test(x, t) for x in y) for t in TEXT]) for y in (found, plain))
        some = (a + b > 10) & (a + b < 2 * count - 10)
        a, b = a[some], b[some]
        between = (a - b) ** 2 / ((a + b) * (1 - (a + b) / (2 * count)))
        assert between.max() < chi2.ppf(1 - 1e-4 / len(TEXT), 1)


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_fairseq_leaves_the_second_of_two_full_stops_at_the_end_where_it_is(share):
    text = [20, 1000, 1001, 22, 1002, 23, 1003, 25, 1004, 1005]
    rng = np.random.default_rng(2)
    plain = Counter(tuple(in_new_order(rng, text, share)) for _ in range(60000))
    expected = {order: count / 60000 for order, count in plain.items()}
    found = [tuple(inputs) for inputs in many(text, fairseq(infilling=0, permuted=share), 6000)]
    assert all(order[-1] == 1005 and order.index(1001) + 1 == order.index(22) for order in found)
    assert len(expected) == {1.0: math.factorial(4), 0.4: 1 + math.comb(4, 2)}[share]
    assert_shares(found, expected)


def test_fairseq_rounds_up_and_counts_words():
    text = [20, 21, 22, 24, 23, 27, 25]  # 21, 24 and 27 go on with a word
    for inputs in many(text, fairseq(infilling=0, permuted=0, deleted=0.3), 20):
        assert len(inputs) == 4  # ceil(2.1) of 7 are left out
    kept = many(text, fairseq(infilling=0.25, permuted=0), 200)  # one of 4 words
    whole = [[20, 21], [22, 24], [23, 27], [25]]
    for inputs in kept:
        words = [word for word in whole if {*word} <= {*inputs}]
        assert len(words) == 3 and {*sum(words, [])} == {*inputs} - {MASK}


# --- Sentence ends ------------------------------------------------------------------------------


def test_a_tokenizer_is_asked_once_and_only_where_sentences_move():
    asked = []
    words = dataclasses.replace(WORDS, find_sentence_ends=lambda: asked.append(1) or IDS >= STOPS)
    Denoising(permuted=0).check(MODEL, words)
    jax.eval_shape(lambda b: Denoising(permuted=0).corrupt(b, 0, words), row_of([20]))
    assert not asked
    Denoising().check(MODEL, words)
    jax.eval_shape(lambda b: Denoising().corrupt(b, 0, words), row_of([20]))
    assert len(asked) == 1


def test_a_run_knows_the_full_stops_of_its_tokenizer():
    tokenizer = toy.train_toy_tokenizer("wordpiece")
    vocabulary = make_vocabulary(tokenizer, tokenizer.vocab_size + 7)
    ends = np.flatnonzero(vocabulary.sentence_ends)
    assert len(vocabulary.sentence_ends) == tokenizer.vocab_size + 7
    assert [tokenizer.token(int(end)) for end in ends] == ["."]


# --- What is refused ----------------------------------------------------------------------------


def test_a_decoder_cannot_denoise():
    with pytest.raises(UserError, match="one stack") as error:
        Denoising().check(tiny.gpt2(vocab_size=SIZE), WORDS)
    assert "bart" in str(error.value)


def test_a_tokenizer_without_a_mask_is_refused_where_one_is_needed():
    roles = {role: number for role, number in tiny.SPECIALS.items() if role != "mask"}
    without = dataclasses.replace(WORDS, special_ids=roles)
    for objective in (Denoising(), Denoising(infilling=0, masked=0.1)):
        with pytest.raises(UserError, match="no mask token") as error:
            objective.check(MODEL, without)
        assert "extra_roles=[mask]" in str(error.value)
    Denoising(infilling=0, deleted=0.2).check(MODEL, without)


def test_a_tokenizer_without_full_stops_is_refused_where_sentences_move():
    without = dataclasses.replace(WORDS, find_sentence_ends=None)
    with pytest.raises(UserError, match="ends a sentence") as error:
        Denoising().check(MODEL, without)
    assert error.value.fix == "set objective.permuted=0"
    Denoising(permuted=0).check(MODEL, without)
    Denoising().check(MODEL, WORDS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"infilling": 1.1}, "share is out of range"),
        ({"permuted": -0.1}, "share is out of range"),
        ({"infilling": 0.5, "deleted": 0.5}, "nothing would be left"),
        (NOTHING, "no text would be corrupted"),
        ({"mean_span": 0.5}, "number is out of range"),
        ({"variant": "fairseq", "deleted": 0.1}, "one kind of noise"),
    ],
)
def test_what_does_not_go_together_is_refused(given, said):
    with pytest.raises(UserError, match=said):
        Denoising(**given)

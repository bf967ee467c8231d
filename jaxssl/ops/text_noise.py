"""Noise of the texts of a row, as BART draws it (Lewis et al., 2020): sentences in another order,
spans that one mask stands for, tokens masked or left out, texts that begin in their middle.

All of a row's texts are noised at once, each for itself; rows by `jax.vmap`. Nothing is scattered:
what stands at a place is gathered from where it was.

Shapes: R tokens of a row. A stretch is tokens that lie side by side and are noised as one text; as
many slots as it has tokens are there for what it becomes, which is never longer.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Stretches(NamedTuple):
    """Of each token of a row, the stretch that it is in.

    Attributes:
      number: int32 [R], ascending.
      begin: int32 [R], where it begins.
      size: int32 [R], how many tokens it has.
      place: int32 [R], which of these the token is, from 0 on.
    """

    number: jax.Array
    begin: jax.Array
    size: jax.Array
    place: jax.Array

    @classmethod
    def of(cls, number: jax.Array) -> "Stretches":
        """Those that are told apart by their numbers, ascending."""
        here = jnp.arange(len(number), dtype=jnp.int32)
        changes = number[1:] != number[:-1]
        is_first = jnp.pad(changes, (1, 0), constant_values=True)
        is_last = jnp.pad(changes, (0, 1), constant_values=True)
        begin = jax.lax.cummax(jnp.where(is_first, here, 0))
        end = jax.lax.cummin(jnp.where(is_last, here + 1, len(number)), reverse=True)
        return cls(number, begin, end - begin, here - begin)

    @classmethod
    def between(cls, segment_ids: jax.Array, fixed: jax.Array) -> "Stretches":
        """Those of one document each, and of tokens that are fixed, or of tokens that are not."""
        changes = (segment_ids[1:] != segment_ids[:-1]) | (fixed[1:] != fixed[:-1])
        return cls.of(jnp.cumsum(jnp.pad(changes, (1, 0)), dtype=jnp.int32))

    @property
    def is_last(self) -> jax.Array:
        """bool [R], the last token of each."""
        return self.place == self.size - 1

    def shuffled(self, key: jax.Array, there: jax.Array) -> jax.Array:
        """For each item of `there`, the place of one of them in its stretch, in a random order:
        int32 [R].

        Args:
          there: bool [R]; those of a stretch are its first tokens.
        """
        return _shuffled(key, self.number, there) - self.begin

    def before(self, counts: jax.Array) -> jax.Array:
        """The sum of what stands before each token in its stretch, int32 [R]."""
        summed = jnp.cumsum(counts, dtype=jnp.int32) - counts
        return summed - summed[self.begin]

    def total(self, counts: jax.Array) -> jax.Array:
        """The sum over the stretch of each token, int32 [R]."""
        last = self.begin + self.size - 1
        return (self.before(counts) + counts)[last]


class Noised(NamedTuple):
    """What the slots of a row hold.

    Attributes:
      source: int32 [R], the token that stands there.
      is_mask: bool [R], whether a mask does instead.
      there: bool [R], whether the slot is used.
    """

    source: jax.Array
    is_mask: jax.Array
    there: jax.Array


def first_of(there: jax.Array) -> jax.Array:
    """Where the True of `there` [R] are, ascending, and behind them the rest: int32 [R]."""
    return jnp.argsort(~there, stable=True).astype(jnp.int32)


def _shuffled(key: jax.Array, groups: jax.Array, there: jax.Array) -> jax.Array:
    """Items [N] group by group: first those of `there`, in a random order, then the others."""
    here = jnp.arange(len(groups), dtype=jnp.int32)
    drawn = jnp.where(there, jax.random.uniform(key, groups.shape), 2.0)
    return jax.lax.sort((groups, drawn, here), num_keys=2)[-1]


# --- Lengths of spans ---------------------------------------------------------------------------


def poisson_limits(mean: float) -> np.ndarray:
    """A uniform number u of [0, 1) makes a length of the Poisson distribution: how many of these
    are at most u. Longer ones, of less than a millionth in all, are left out. float32 [K]."""
    lengths = np.arange(math.ceil(mean + 12 * math.sqrt(mean) + 12))
    logs = lengths * math.log(mean) - mean - np.array([math.lgamma(k + 1) for k in lengths])
    below = np.cumsum(np.exp(logs))
    kept = np.cumsum(np.exp(logs)[::-1])[::-1] >= 1e-7
    return (below[kept] / below[kept][-1]).astype(np.float32)[:-1]


def drawn_lengths(key: jax.Array, count: int, limits: jax.Array) -> jax.Array:
    """So many lengths of spans, int32 [count]."""
    drawn = jax.random.uniform(key, (count, 1))
    return jnp.sum(drawn >= limits, axis=1, dtype=jnp.int32)


def spent(
    lengths: jax.Array, stretches: Stretches, budget: jax.Array, most: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Which draws are taken until a stretch's budget is spent, bool [R], and how long their spans
    are, int32 [R]: exactly the budget in all.

    Args:
      lengths: int32 [R]; the draws of a stretch are those at its first tokens.
      budget, most: int32 [R], of the stretch of each token; `most` draws are taken, and at least
        one if the budget is above 0. The last one is as long as what is left.
    """
    left = budget - stretches.before(lengths)
    taken = (stretches.place < most) & (left > 0)
    of_last = jnp.where(stretches.place == most - 1, left, jnp.minimum(lengths, left))
    return taken, jnp.where(taken, of_last, 0)


# --- Sentences ----------------------------------------------------------------------------------


def moved_sentences(
    key: jax.Array, stretches: Stretches, ends: jax.Array, moved: np.ndarray | None
) -> jax.Array:
    """Where each place of a row takes its token from, with the sentences of each stretch in a
    random order: int32 [R].

    Args:
      ends: bool [R], the last tokens of sentences. What is behind the last one of a stretch stays.
      moved: int [R + 1], by the number of sentences of a stretch, how many of them, drawn at
        random, change their places among themselves; None is all.
    """
    R = len(ends)
    here = jnp.arange(R, dtype=jnp.int32)
    starts = (stretches.place == 0) | jnp.pad(ends, (1, 0))[:-1]
    first, is_sentence = first_of(starts), here < jnp.sum(starts)
    begin = jnp.where(is_sentence, first, R)
    size = jnp.pad(begin[1:], (0, 1), constant_values=R) - begin
    may_move = is_sentence & ends[begin + size - 1]
    group = jnp.where(is_sentence, stretches.number[first], R + 1)
    if moved is None:
        order = _shuffled(key, group, may_move)
    else:
        which_key, key = jax.random.split(key)
        rank = Stretches.of(group).shuffled(which_key, may_move)
        chosen = may_move & (rank < jnp.asarray(moved)[stretches.total(ends.astype(int))[first]])
        # The places of those that are chosen, and what comes there instead.
        *_, places = jax.lax.sort((group, ~chosen, here), num_keys=2)
        order = _shuffled(key, group, chosen)
        _, order = jax.lax.sort((places, order), num_keys=1)
    sizes = size[order]
    begins = jnp.cumsum(sizes, dtype=jnp.int32) - sizes
    at = jnp.searchsorted(begins, here, side="right") - 1
    return begin[order][at] + here - begins[at]


# --- Spans and tokens ---------------------------------------------------------------------------


class Counts(NamedTuple):
    """How many tokens of the stretch of each token are noise, int32 [R]; together no more than it
    has.

    Attributes:
      cut: in spans, each of which is one mask.
      masked: masked one by one.
      deleted: left out.
    """

    cut: jax.Array
    masked: jax.Array
    deleted: jax.Array


def infilled(key: jax.Array, stretches: Stretches, counts: Counts, limits: jax.Array) -> Noised:
    """Spans, whose lengths are drawn, and single tokens, all apart from each other.

    What is kept and the masks of the spans stand in a random order, each as likely. A span of no
    token is a mask put in. There are no more masks of spans than tokens that they stand for.
    """
    draw_key, where_key = jax.random.split(key)
    lengths = drawn_lengths(draw_key, len(stretches.number), limits)
    taken, lengths = spent(lengths, stretches, counts.cut, counts.cut)
    spans = stretches.total(taken.astype(int))
    in_use = stretches.place < stretches.size - counts.cut + spans
    rank = stretches.shuffled(where_key, in_use)
    is_span = rank < spans
    takes = jnp.where(is_span, lengths[stretches.begin + rank], 1)
    single = rank - spans
    deleted = (single >= counts.masked) & (single < counts.masked + counts.deleted)
    return Noised(
        source=_inside(stretches, stretches.before(takes)),
        is_mask=is_span | (single < counts.masked),
        there=in_use & ~deleted,
    )


def infilled_by_words(
    key: jax.Array,
    stretches: Stretches,
    word_starts: jax.Array,
    budgets: np.ndarray,
    limits: jax.Array,
) -> Noised:
    """Spans as fairseq draws them: each covers as many words as it is long, from a random one on.

    Spans may overlap, and end with their stretch; so less is covered than the budget. Of a span the
    first token becomes the mask, unless another span covers it. Spans of no word are masks put in
    at random places behind all that: no more of them than tokens were left out.

    Args:
      word_starts: bool [R], the first tokens of words.
      budgets: int [R + 1], the words that spans are to cover, by the words of a stretch.
    """
    draw_key, word_key, insert_key = jax.random.split(key, 3)
    here = jnp.arange(len(word_starts), dtype=jnp.int32)
    words = stretches.total(word_starts.astype(int))
    lengths = drawn_lengths(draw_key, len(here), limits)
    taken, lengths = spent(lengths, stretches, jnp.asarray(budgets)[words], words)

    starts, found = first_of(word_starts), jnp.sum(word_starts)
    is_word, word = here < found, jnp.maximum(jnp.cumsum(word_starts) - 1, 0)
    groups = Stretches.of(jnp.where(is_word, stretches.number[starts], len(here)))
    draw = groups.shuffled(word_key, is_word)[word]
    own = jnp.where(word_starts, lengths[stretches.begin + draw], 0)
    behind = word + own  # the number of the first word that is not covered
    end = jnp.where(behind < found, starts[jnp.minimum(behind, len(here) - 1)], len(here))
    end = jnp.minimum(end, stretches.begin + stretches.size)
    reach = jax.lax.cummax(jnp.where(own > 0, end, 0))
    left_out = jnp.pad(reach, (1, 0))[:-1] > here
    is_mask = own > 0

    gone = stretches.total(left_out.astype(int))
    put_in = jnp.minimum(stretches.total((taken & (lengths == 0)).astype(int)), gone)
    in_use = stretches.place < stretches.size - gone + put_in
    is_new = in_use & (stretches.shuffled(insert_key, in_use) < put_in)
    *_, kept = jax.lax.sort((stretches.number, left_out, here), num_keys=2)
    source = kept[_inside(stretches, stretches.before(jnp.where(is_new, 0, 1)))]
    return Noised(source, is_new | is_mask[source], in_use)


def _inside(stretches: Stretches, place: jax.Array) -> jax.Array:
    """Indices of places in stretches; those that are too far on are the last."""
    return stretches.begin + jnp.minimum(place, stretches.size - 1)


# --- Turning ------------------------------------------------------------------------------------


def rotated(
    key: jax.Array, stretches: Stretches, share: jax.Array | float, *, past_end: bool = False
) -> jax.Array:
    """Where each place of a row takes its token from, with a share of the stretches, drawn at
    random, beginning at a random token of theirs: int32 [R].

    Args:
      past_end: draw among one token more, behind the last; from there on it is as from the first.
    """
    whether_key, where_key = jax.random.split(key)
    chosen = jax.random.uniform(whether_key, stretches.number.shape)[stretches.begin] < share
    drawn = jax.random.uniform(where_key, stretches.number.shape)[stretches.begin]
    offset = (drawn * (stretches.size + past_end)).astype(jnp.int32)
    return stretches.begin + (stretches.place + jnp.where(chosen, offset, 0)) % stretches.size

"""Random numbers that are a function of what they are for: a key and a counter, no state.

The mixer is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable
pseudorandom number generators"), a bijection of 64 bits. Everything is vectorised numpy, so that
a whole batch draws at once and any row can be drawn again alone.
"""

import functools

import numpy as np

STEP = np.uint64(0x9E3779B97F4A7C15)
"""Odd and without pattern: what SplitMix64 counts by."""


def mix(words: np.ndarray) -> np.ndarray:
    """Scrambles each uint64 word; returns a new array of the same shape."""
    words = words ^ (words >> np.uint64(30))
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


@functools.lru_cache(maxsize=64)
def key(*words: int) -> np.uint64:
    """One key from several integers (a purpose, a seed, an epoch); their order matters."""
    state = np.zeros(1, np.uint64)
    for word in words:
        state = mix(state + STEP + mix(np.array([word % (1 << 64)], np.uint64)))
    return state[0]


def bits(key: np.uint64, *counters: np.ndarray | int) -> np.ndarray:
    """64 random bits for each tuple of counters: integers, or integer arrays that broadcast.

    Arrays only inside: numpy warns of the (wanted) overflow of a scalar, not of an array.
    """
    state = np.array([key])
    for counter in counters:
        steps = np.atleast_1d(np.asarray(counter)).astype(np.uint64)
        state = mix(state + (steps + np.uint64(1)) * STEP)
    return state


def uniform(words: np.ndarray) -> np.ndarray:
    """Float64 in [0, 1) from 64 random bits each."""
    return (words >> np.uint64(11)) * 2.0**-53


def below(words: np.ndarray, bounds: np.ndarray | int) -> np.ndarray:
    """Int64 uniform over [0, bound), bound >= 1; its bias is under bound / 2**53."""
    return (uniform(words) * bounds).astype(np.int64)

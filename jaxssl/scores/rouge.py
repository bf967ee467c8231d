"""ROUGE (Lin, 2004): how many words, pairs of words and words in order two texts have in common.

As google-research/rouge's `rouge_score` computes it without its stemmer: words are runs of letters
a to z and digits in lower case. Numbers are F1, from 0 to 1.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

WORDS = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """The words of a text."""
    return WORDS.findall(text.lower())


def rouge_scores(written: str, reference: str) -> dict[str, float]:
    """`rouge1`, `rouge2` and `rougeL` of one text."""
    a, b = words(written), words(reference)
    ngrams = {f"rouge{n}": _overlap(_ngrams(a, n), _ngrams(b, n)) for n in (1, 2)}
    return {**ngrams, "rougeL": _f1(longest_common(a, b), len(a), len(b))}


def mean_rouge(written: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """The means over texts."""
    each = [rouge_scores(*both) for both in zip(written, references, strict=True)]
    return {name: float(np.mean([x[name] for x in each])) for name in each[0]}


def _ngrams(tokens: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(size))))


def _overlap(a: Counter, b: Counter) -> float:
    return _f1((a & b).total(), a.total(), b.total())


def _f1(common: int, size_a: int, size_b: int) -> float:
    return 2 * common / (size_a + size_b) if common else 0.0


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence. By rows, each in a few numpy operations."""
    if not a or not b:
        return 0
    numbers = {word: i for i, word in enumerate(dict.fromkeys([*a, *b]))}
    other = np.array([numbers[word] for word in b])
    row = np.zeros(len(b) + 1, np.int64)
    for word in a:
        longer = row[:-1] + (other == numbers[word])
        row[1:] = np.maximum.accumulate(np.maximum(row[1:], longer))
    return int(row[-1])

"""Scores of finding what belongs to a text among many: recall, reciprocal rank, nDCG.

As sentence-transformers' InformationRetrievalEvaluator has them, with binary relevance.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxssl.core.errors import UserError

DEPTHS = (1, 5, 10)
"""How many of the best candidates count for recall."""
DEPTH = 10
"""And for the reciprocal rank and nDCG."""
CHUNK = 256
"""Queries at a time."""


def ranks_of_relevant(
    queries: Any, candidates: Any, relevant: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The rank, from 1 on, of each relevant candidate of each query, by the product of their
    vectors; of equal products the earlier candidate comes first.

    Args:
      queries: [Q, H], an array or a sparse matrix.
      candidates: [C, H].
      relevant: for each query the numbers of its candidates, int [R], one at least.
    """
    found = []
    for start in range(0, queries.shape[0], CHUNK):
        scores = queries[start : start + CHUNK] @ candidates.T
        scores = scores if isinstance(scores, np.ndarray) else scores.toarray()
        for row, wanted in zip(scores, relevant[start : start + CHUNK]):
            own = row[wanted]
            better = (row[None] > own[:, None]).sum(axis=1)
            ties = ((row[None] == own[:, None]) & (np.arange(len(row)) < wanted[:, None])).sum(1)
            found.append(np.sort(1 + better + ties))
    return found


def query_scores(ranks: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Scores [Q] of each query, of the ranks of what is relevant to it.

    Returns:
      `recall@1`, `recall@5`, `recall@10`: the share of what is relevant among the best so many;
      `mrr@10`: one over the rank of the first of it; `ndcg@10`: the sum of 1 / log2(rank + 1),
      divided by what it would be if all of it came first.
    """
    if not ranks:
        raise UserError(
            "there is nothing to score", where="retrieval", expected="one query", got="none"
        )
    found = {
        f"recall@{depth}": np.array([(r <= depth).sum() / len(r) for r in ranks])
        for depth in DEPTHS
    }
    found[f"mrr@{DEPTH}"] = np.array([1 / r[0] if r[0] <= DEPTH else 0.0 for r in ranks])
    gains = 1 / np.log2(np.arange(2, DEPTH + 2))
    ideal = np.cumsum(gains)
    found[f"ndcg@{DEPTH}"] = np.array(
        [gains[r[r <= DEPTH] - 1].sum() / ideal[min(DEPTH, len(r)) - 1] for r in ranks]
    )
    return found

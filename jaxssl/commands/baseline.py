"""The baselines that models have to beat, which count words: logistic regression for a classifier,
the cosine for vectors of texts."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.data.tables.table import Table
from jaxssl.run.config import RunConfig
from jaxssl.run.feeds import read_tables
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.similarity import Similarity
from jaxssl.tasks.texts import read_texts


def bag_of_words(config: RunConfig) -> dict[str, dict[str, float]]:
    """Scores of a bag of words by split, fitted on the training split of a recipe's data.

    Raises:
      UserError: the task is neither the classification of one label nor similarity; mistakes in
        the data.
    """
    stream = config.labelled
    task = stream.objective if stream else None
    if stream is not None and isinstance(task, Similarity):
        return _similarity(task, read_tables(stream))
    if stream is None or not isinstance(task, Classify) or task.multi_label:
        raise UserError(
            "there is no bag-of-words baseline for this task",
            where="task",
            expected="classify, with one label a row, or similarity",
            got=config.purpose if task is None else task.name,
        )
    return _classify(task, read_tables(stream))


def _similarity(task: Similarity, tables: Mapping[str, Table]) -> dict[str, dict[str, float]]:
    """TF-IDF over words (scikit-learn), and the cosine."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    def texts(name: str) -> list[list[str]]:
        return [read_texts(tables[name], *column) for column in task.columns(tables[name], name)]

    model = TfidfVectorizer(sublinear_tf=True)
    model.fit([text for column in texts("train") for text in column])
    return {
        name: task.scores_of(
            [model.transform(column) for column in texts(name)], task.references(tables[name], name)
        )
        for name in tables
        if name != "train" and len(texts(name)) > 1
    }


def _classify(task: Classify, tables: Mapping[str, Table]) -> dict[str, dict[str, float]]:
    """TF-IDF over words and pairs of words with logistic regression (scikit-learn)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    task = task.learn_labels(tables["train"])
    texts = {name: _texts(task, table) for name, table in tables.items()}
    labels = {name: task.label_numbers(table) for name, table in tables.items()}
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2, lowercase=True),
        LogisticRegression(C=10.0, max_iter=1000),
    )
    model.fit(texts["train"], labels["train"])
    found = {}
    for name in tables:
        if name != "train":
            logits = np.full((len(labels[name]), len(task.labels)), -np.inf)
            logits[:, model.classes_] = model.predict_log_proba(texts[name])
            found[name] = task.scores({"logits": logits}, labels[name])
    return found


def _texts(task: Classify, table: Any) -> list[str]:
    """Both texts of a pair as one."""
    first = table.strings(task.text, "task.text")
    if task.pair is None:
        return first
    return [f"{a} {b}" for a, b in zip(first, table.strings(task.pair, "task.pair"))]

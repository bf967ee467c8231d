"""The baseline that a classifier has to beat: logistic regression on a bag of words."""

from typing import Any

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.run.config import RunConfig
from jaxssl.run.feeds import read_tables
from jaxssl.tasks.classify import Classify


def bag_of_words(config: RunConfig) -> dict[str, dict[str, float]]:
    """Scores of TF-IDF over words and pairs of words with logistic regression (scikit-learn), by
    split; fitted on the training split of a recipe's data.

    Raises:
      UserError: the task is not the classification of one label; mistakes in the data.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    stream = config.labelled
    task = stream.objective if stream else None
    if stream is None or not isinstance(task, Classify) or task.multi_label:
        raise UserError(
            "there is no bag-of-words baseline for this task",
            where="task",
            expected="classify, with one label a row",
            got=config.purpose if task is None else task.name,
        )
    tables = read_tables(stream)
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

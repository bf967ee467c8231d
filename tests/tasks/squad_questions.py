"""Questions about a cat, in the format of SQuAD: what they ask decides which word is right."""

import functools
import json

import numpy as np

from jaxssl.data.corpus.sources import Docstrings
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.data.tokenizer.training import TokenizerTrainConfig, train_on_texts

COLOURS = ("red", "blue", "green", "white", "black")
PLACES = ("garden", "kitchen", "cellar", "attic", "barn")
FILLERS = "every bird sees a fish near an old river and paints one stone under it".split()


def question(rng, i, answerable=1.0):
    """A question with its context; the facts stand anywhere among other words."""
    words = [str(rng.choice(FILLERS)) for _ in range(rng.integers(8, 60))]
    answer = {"what colour is the cat?": str(rng.choice(COLOURS))}
    answer["where does the cat live?"] = str(rng.choice(PLACES))
    text = list(answer)[rng.integers(2)]
    facts = dict(zip(answer, ("cat is {}", "cat lives in the {}")))
    if rng.random() >= answerable:
        del facts[text]
    for about, fact in facts.items():
        words.insert(int(rng.integers(len(words) + 1)), fact.format(answer[about]))
    context = " ".join(words).capitalize() + "."
    start = context.find(answer[text])
    answers = [{"text": answer[text], "answer_start": start}] if text in facts else []
    return {"id": f"q{i}", "question": text, "context": context, "answers": answers}


def write(path, count, seed=0, answerable=1.0):
    """A file of SQuAD's format."""
    rng = np.random.default_rng(seed)
    paragraphs = []
    for i in range(count):
        asked = question(rng, i, answerable)
        asked["is_impossible"] = not asked["answers"]
        paragraphs.append({"context": asked.pop("context"), "qas": [asked]})
    path.write_text(json.dumps({"version": "2.0", "data": [{"paragraphs": paragraphs}]}))
    return path


def texts():
    """What a tokenizer for them is learnt of."""
    facts = [f"Cat is {c}." for c in COLOURS] + [f"the cat lives in the {p}." for p in PLACES]
    asked = ["what colour is the cat?", "where does the cat live?"]
    return [*facts, *asked, " ".join(FILLERS).capitalize()] * 4


@functools.cache
def tokenizer() -> Tokenizer:
    """That knows their words."""
    config = TokenizerTrainConfig(
        source=Docstrings(), kind="wordpiece", out="cats", vocab_size=400, min_frequency=2
    )
    return train_on_texts(config, texts)

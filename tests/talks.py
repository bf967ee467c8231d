"""A tokenizer with turn tokens, conversations about what was seen, and runs over them."""

import json

import numpy as np
import toy

from jaxssl.data.tokenizer.chat_template import TURN_TOKENS
from jaxssl.data.tokenizer.special import with_special
from jaxssl.run.recipes import FINETUNE, load_config

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML without marks around the answers."""


def tokenizer():
    return with_special(toy.train_toy_tokenizer("byte_bpe"), TURN_TOKENS)


def conversations(count, seed=0):
    """Each answer repeats who was seen."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        talk = []
        for _ in range(rng.integers(1, 4)):
            who = str(rng.choice(toy.NAMES))
            talk += [
                {"role": "user", "content": f"{who} {rng.choice(toy.VERBS)} a dog"},
                {"role": "assistant", "content": who},
            ]
        made.append(talk)
    return made


def write(path, talks, column="messages"):
    path.write_text("".join(json.dumps({column: talk}) + "\n" for talk in talks))
    return path


def recipe(out, tokens, table, **task):
    """A GPT-2 of two layers from scratch, as plain values."""
    plain = toy.recipe_of("gpt2", out, out, 304)
    plain["model"] |= {"max_positions": 128, "dropout": 0.0}
    tables = {"train": {"name": "file", "path": str(table)}, "validation_fraction": 0.2}
    return {
        **plain,
        "objective": {"name": "chat", "template": "chatml", "max_answer_length": 16, **task},
        "data": {"tables": tables, "max_length": 128, "batch_size": 8, "row_lengths": 1},
        "tokenizer": str(tokens),
    }


def configured(*given, overrides=(), **task):
    return load_config([recipe(*given, **task)], overrides, FINETUNE)


def shared_run(tmp_path_factory):
    """A directory with `tokens`, `talks.jsonl` and a `run` that has learnt to answer a little."""
    from jaxssl.run.train import train_run

    def make(place):
        place.mkdir()
        tokenizer().save(place / "tokens")
        write(place / "talks.jsonl", conversations(60))
        config = configured(place / "run", place / "tokens", place / "talks.jsonl")
        train_run(config, lambda text: None)

    return toy.shared(tmp_path_factory, "talker", make)

"""Our own pretrained GPT, exported and imported again, learns to answer by adapters, as it is."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
import talks
import toy

from jaxssl import cli
from jaxssl.core.names import flatten
from jaxssl.data.tokenizer.chat_template import ChatTemplate
from jaxssl.generate.decode import generate
from jaxssl.run.open import open_run
from jaxssl.run.recipes import FINETUNE, load_config
from jaxssl.run.train import train_run
from jaxssl.tasks.chat import GREEDY

STEPS, HALF = 6, 3
METHODS = {"lora": {"name": "lora", "targets": ["all-linear"]}, "prompt": {"name": "prompt"}}


def command(*words):
    assert cli.main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The run `gpt`, and conversations."""
    folder = tmp_path_factory.mktemp("adapted")
    counts = {"train": 60, "validation": 9}
    store = toy.write_store(folder / "store", talks.tokenizer(), counts)
    recipe = toy.recipe(store, folder / "own", "gpt2")
    recipe["model"] |= {"max_positions": 160}
    recipe |= {"train": {"steps": 6}, "evaluation": {"every": 0}}
    command("pretrain", toy.write_recipe(folder / "gpt.json", recipe))
    command("export", folder / "own", folder / "hf")
    command("import", folder / "hf", folder / "gpt")
    talks.write(folder / "talks.jsonl", talks.conversations(40))
    return folder


@pytest.fixture(scope="module", params=METHODS)
def tuned(request, place):
    """Its configuration, once it has run."""
    config = load_config(
        [
            {
                "out": str(place / request.param),
                "init": {"from": str(place / "gpt")},
                "task": {"name": "chat", "template": "chatml", "max_answer_length": 8},
                "data": {
                    "tables": {
                        "train": {"name": "file", "path": str(place / "talks.jsonl")},
                        "validation_fraction": 0.2,
                    },
                    "max_length": 120,
                    "batch_size": 8,
                    "row_lengths": 1,
                },
                "peft": METHODS[request.param],
                "train": {"steps": STEPS, "epochs": None},
                "evaluation": {"every": HALF},
                "checkpoint": {"every": HALF, "keep_last": 9},
                "logging": {"every": 1, "tensorboard": False, "progress": False},
            }
        ],
        (),
        FINETUNE,
    )
    train_run(config, lambda text: None)
    return config


def test_the_base_keeps_its_bits_and_the_adapters_learn(place, tuned):
    run = open_run(tuned.out, "last")
    before, after = (
        {name: np.asarray(x) for name, x in flatten(params).items()}
        for params in (open_run(place / "gpt").params, run.params)
    )
    assert all(np.array_equal(after[name], x) for name, x in before.items())
    added = after.keys() - before.keys()
    first = toy.restored(place / tuned.out, HALF)
    last = toy.restored(place / tuned.out, STEPS)
    kept = [name for name in last if name.startswith("['params']")]
    assert len(kept) == len(added) > 0
    assert any(not np.array_equal(first[name], last[name]) for name in kept)
    frozen = json.loads((place / tuned.out / "frozen.json").read_text())
    assert frozen


def test_a_killed_run_ends_with_the_same_bits(place, tuned):
    again = shutil.copytree(tuned.out, f"{tuned.out}-again")
    shutil.rmtree(place / again / "checkpoints" / str(STEPS))
    train_run(dataclasses.replace(tuned, out=again), lambda text: None)
    got, want = (toy.restored(place / out, STEPS) for out in (again, tuned.out))
    toy.assert_same_arrays(got, want)
    got, want = (toy.rows_of(place / out, "train", "validation") for out in (again, tuned.out))
    assert got == want


def test_it_is_talked_to_and_continues_texts(tuned, monkeypatch, capsys):
    """The answer is that of a whole prompt read anew."""
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat sees a dog\n"))
    flags = ("--temperature", "0", "--tokens", "8")
    command("chat", tuned.out, "--system", "at home", *flags)
    said = capsys.readouterr().out
    run = open_run(tuned.out)
    template = ChatTemplate(run.tokenizer)
    roles = (("system", "at home"), ("user", "the cat sees a dog"))
    messages = [{"role": role, "content": content} for role, content in roles]
    prompt = template.prompt(messages, "here")
    sampling = dataclasses.replace(GREEDY, max_new_tokens=8)
    with run.in_use():
        (made,) = generate(run.model, run.params, [prompt], sampling, [template.end])
    assert said == run.tokenizer.decode(made.tokens).strip() + "\n"
    command("generate", tuned.out, "the cat sees", *flags)
    assert capsys.readouterr().out.startswith('== prompt "the cat sees"\n')

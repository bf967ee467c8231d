"""`generate` over a file whose rows name the adapters that they use."""

import json

import pytest
import toy

from jaxssl.commands.generate_file import generate_file
from jaxssl.core.errors import UserError
from jaxssl.generate.settings import Sampling
from jaxssl.run.train import train_run

QUIET = lambda text: None  # noqa: E731
GREEDY = Sampling(max_new_tokens=6, temperature=0)
FEW = (
    *("train.steps=3", "checkpoint.every=3", "evaluation.every=0"),
    "optimizer.schedule.warmup=1",
)
LORA = ("peft.name=lora", "peft.targets=[all-linear]", "optimizer.learning_rate=0.05")
PROMPTS = ["the cat", "my sister sees", "a dog", "the bird near"]


@pytest.fixture(scope="module")
def place(byte_store, tmp_path_factory):
    """A causal run, two with a LoRA over it, of different seeds, and one with a prefix."""
    out = tmp_path_factory.mktemp("by-row")
    (out / "store").symlink_to(byte_store)
    train_run(toy.configured(byte_store, out / "base", "gpt2", *FEW), QUIET)
    for name, more in (
        ("law", LORA),
        ("news", (*LORA, "train.seed=5")),
        ("other", ("peft.name=prefix", "peft.length=2")),
    ):
        changes = (f"init.from={out / 'base'}", *FEW, *more)
        train_run(toy.configured(byte_store, out / name, "gpt2", *changes), QUIET)
    return out


def written(run, rows, out, *adapters, **more):
    given = out.with_suffix(".in.jsonl")
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [str(each) for each in adapters]
    generate_file(run, [given], out, GREEDY, adapters=names, note=QUIET, **more)
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_each_row_has_the_text_of_its_adapter(place, tmp_path):
    adapters = [place / "law", place / "news"]
    rows = [{"prompt": p, "by": str(adapters[i % 2])} for i, p in enumerate(PROMPTS)]
    made = written(
        *(place / "base", rows, tmp_path / "all.jsonl", *adapters),
        adapter_column="by",
        batch_size=3,
    )
    single = [
        written(place / "base", rows, tmp_path / f"{each.name}.jsonl", each) for each in adapters
    ]
    for number, (row, given) in enumerate(zip(made, rows, strict=True)):
        want, other = single[number % 2][number], single[1 - number % 2][number]
        assert row["by"] == given["by"] and row["text"] == want["text"]
        assert row["log_probability"] == pytest.approx(want["log_probability"], abs=2e-4)
        assert abs(row["log_probability"] - other["log_probability"]) > 1e-3


def test_what_rows_cannot_choose_is_told(place, tmp_path):
    base, law, news, out = (place / "base", place / "law", place / "news", tmp_path / "out.jsonl")
    rows = [{"prompt": "the cat", "by": str(law)}, {"prompt": "a dog", "by": f"{news}s"}]
    with pytest.raises(UserError, match="names no adapter that is there") as caught:
        written(base, rows, out, law, news, adapter_column="by")
    assert str(news) in str(caught.value.fix) and "2" in str(caught.value.where)
    with pytest.raises(UserError, match="row by row") as caught:
        written(base, rows, out, law, place / "other", adapter_column="by")
    assert "prefix" in str(caught.value.got)
    with pytest.raises(UserError, match="row by row"):
        written(base, rows, out, law, adapter_column="by")
    assert not out.exists()


def test_rows_call_adapters_as_they_were_given(place, tmp_path):
    """Checkpoints, and names within runs; `two` adopted its adapters, and is opened itself."""
    base, law, news = place / "base", place / "law", place / "news"
    peft = f"peft={{law: {{from: {law}}}, news: {{from: {news}}}}}"
    changes = (f"init.from={base}", *FEW, "train.steps=1", "checkpoint.every=1", peft)
    train_run(toy.configured(place / "store", tmp_path / "two", "gpt2", *changes), QUIET)
    for number, (run, pair) in enumerate(
        [
            (base, (law / "checkpoints" / "3", news)),
            (base, (f"{law}#default", news / "checkpoints" / "3")),
            (base, (f"{tmp_path / 'two'}#law", f"{tmp_path / 'two'}#news")),
            (tmp_path / "two", ("news", "law")),
        ]
    ):
        rows = [{"prompt": p, "by": str(pair[i % 2])} for i, p in enumerate(PROMPTS[:2])]
        made = written(run, rows, tmp_path / f"{number}.jsonl", *pair, adapter_column="by")
        for row, each in zip(made, pair, strict=True):
            single = written(run, [row], tmp_path / f"{number}-{each == pair[0]}.jsonl", each)
            assert row["text"] == single[0]["text"]
            want = pytest.approx(single[0]["log_probability"], abs=2e-4)
            assert row["log_probability"] == want

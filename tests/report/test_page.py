import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from jaxssl.core.errors import UserError
from jaxssl.report import summary_table, write_comparison, write_report
from jaxssl.train.sinks import Sinks

VOID = {"meta", "link", "input", "br", "img", "hr"}
NASTY = "<script>alert(\"x\")</script> & </style> 'quoted' [MASK]"


class Page(HTMLParser):
    """Parses a page strictly: every element closed in order; collects what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.attributes, self.text = [], [], [], []
        self.charts, self.numbers, self.ids = [], [], []
        self.feed(text)
        self.close()
        assert not self.stack, f"not closed: {self.stack}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        self.numbers += [float(value) for name, value in attrs if (tag, name) == ("data", "value")]
        if tag not in VOID:
            self.stack.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1][0] == tag, (tag, self.stack)
        self.stack.pop()

    def handle_data(self, data):
        if self.stack and self.stack[-1] == ("script", {"type": "application/json"}):
            self.charts.append(json.loads(data))
        elif self.stack and self.stack[-1][0] not in ("script", "style"):
            self.text.append(data)

    def series(self):
        """Every drawn line as {step: value}."""
        lines = []
        for chart in self.charts:
            for line in chart:
                steps = chart[line["x"]]["x"] if isinstance(line["x"], int) else line["x"]
                lines.append(dict(zip(steps, line["y"], strict=True)))
        return lines


def make_run(run_dir, *, steps=40, objectives=("causal_lm",), text="some text", extra=()):
    sinks = Sinks.open(run_dir, tensorboard=False)
    rng = np.random.default_rng(steps)
    recorded = {"train": {}, "validation": {}}
    for step in range(1, steps + 1):
        parts = {f"loss/{name}": 5 / step + rng.random() for name in objectives}
        recorded["train"][step] = row = {
            "loss": sum(parts.values()),
            **parts,
            "learning_rate": 1e-3 * step / steps,
            "grad_norm": rng.random() + 0.1,
            "tokens_per_second": 1e4 + rng.random(),
        }
        sinks.write("train", step, tokens=step * 128, step_seconds=0.5, **row)
        if step % 10 == 0:
            row = {key: value + 0.1 for key, value in row.items() if key.startswith("loss")}
            row |= {"perplexity": math.exp(row["loss"]), "bits_per_byte": row["loss"] / 3}
            recorded["validation"][step] = row
            sinks.write("validation", step, **row)
            sinks.write("sample", step, prompt=text, text=text + " and more")
            predictions = [{"token": text, "probability": 0.75}]
            sinks.write("fill_mask", step, text=text, predictions=predictions)
    for row in extra:
        sinks.write(**row)
    sinks.note(3, text)
    sinks.close()
    (run_dir / "config.yaml").write_text(f"model:\n  name: tiny\n  num_layers: 2\n# {text}\n")
    environment = {"jax": {"version": "0.10.2", "devices": ["a", "b"]}, "host": text}
    (run_dir / "environment.json").write_text(json.dumps(environment))
    summary = {"parameters": 4385920, "unigram_entropy": 6.54321}
    (run_dir / "summary.json").write_text(json.dumps(summary))
    return recorded


def loads_nothing(text):
    """No address that a browser would fetch: in attributes, styles or scripts."""
    page = Page(text)
    for _, name, value in page.attributes:
        if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            assert value.startswith(("#", "data:,")), (name, value)
    code = "".join(re.findall(r"<(?:style|script)[^>]*>(.*?)</(?:style|script)>", text, re.S))
    assert not re.search(r"@import|url\(|https?:|//[a-z]|fetch\(|XMLHttp|import\(", code)
    assert "http://" not in text and "https://" not in text
    return page


def test_the_report_is_one_file_that_loads_nothing(tmp_path):
    make_run(tmp_path)
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    page = loads_nothing(path.read_text())
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("title") > 1 and "desc" in page.tags


def test_the_page_shows_the_values_of_the_metrics_file(tmp_path):
    recorded = make_run(tmp_path, objectives=("masked_lm", "next_sentence"))
    page = Page(write_report(tmp_path).read_text())
    lines = page.series()
    for rows in recorded.values():
        for key in next(iter(rows.values())):
            drawn = {step: float(f"{row[key]:.6g}") for step, row in rows.items()}
            assert drawn in lines, key
    last = recorded["validation"][40]
    for key in ("loss", "loss/masked_lm", "loss/next_sentence", "perplexity", "bits_per_byte"):
        assert last[key] in page.numbers, key
    text = " ".join(page.text)
    assert 6.54321 in page.numbers and "4,385,920" in text and "5,120" in text
    assert "masked LM + next sentence" in text and "20.0 s" in text
    assert "tiny, 2 layers" in text and "jax.version" in text and "a, b" in text


def test_flop_utilisation_says_what_it_counts(tmp_path):
    make_run(tmp_path)
    assert "twice as many backward" not in write_report(tmp_path).read_text()
    rows = [{"kind": "train", "step": step, "mfu": 0.31} for step in (41, 42)]
    (tmp_path / "other").mkdir()
    make_run(tmp_path / "other", extra=rows)
    text = write_report(tmp_path / "other").read_text()
    assert "twice as many backward" in text and 0.31 in Page(text).numbers


def test_a_single_objective_is_not_drawn_twice(tmp_path):
    make_run(tmp_path)
    text = " ".join(Page(write_report(tmp_path).read_text()).text)
    assert "Training and validation loss" in text and "Causal LM loss" not in text


def test_text_is_escaped_wherever_it_comes_from(tmp_path):
    make_run(tmp_path / 'a "b" <i>c', text=NASTY)
    for write in (write_report, lambda run: write_comparison([run, run], tmp_path / "all.html")):
        source = write(tmp_path / 'a "b" <i>c').read_text()
        page = loads_nothing(source)
        text = " ".join(page.text)
        assert "<script>alert" not in source and page.tags.count("script") == len(page.charts) + 1
        assert NASTY.replace("[MASK]", "") in text and 'a "b" <i>c' in text


def test_a_hundred_thousand_points_fit_with_their_extremes(tmp_path):
    run = tmp_path / "long"
    rng = np.random.default_rng(0)
    losses = rng.normal(size=100_000) + 5
    losses[77_777], losses[33_333], losses[50_001] = 99.5, -8.25, math.nan
    keys = [f"loss/{name}" for name in range(80)]
    run.mkdir()
    with open(run / "metrics.jsonl", "w") as file:
        for step, loss in enumerate(losses.tolist()):
            value = "nan" if math.isnan(loss) else loss
            row = {"kind": "train", "step": step, "loss": value, "grad_norm": value}
            file.write(json.dumps(row) + "\n")
        for step in range(0, 100_000, 50):  # eighty more curves of 2,000 points
            row = {"kind": "validation", "step": step}
            file.write(json.dumps(row | dict.fromkeys(keys, losses[step])) + "\n")
    path = write_report(run)
    assert path.stat().st_size < 2_000_000
    drawn = Page(path.read_text()).series()[0]
    assert drawn[77_777] == 99.5 and drawn[33_333] == -8.25 and None in drawn.values()
    assert "1 non-finite value is a gap" in path.read_text()


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.yaml", "environment.json"])
@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_a_missing_part_is_shown_as_missing(tmp_path, name, damage):
    make_run(tmp_path)
    (tmp_path / name).unlink() if damage == "missing" else (tmp_path / name).write_text("")
    (tmp_path / "summary.json").unlink()
    text = " ".join(loads_nothing(write_report(tmp_path).read_text()).text)
    words = {"metrics.jsonl": "No metrics were recorded", "environment.json": "environment.json"}
    assert words.get(name, "config.yaml") in text
    assert "nan" not in text.split()
    summary_table([tmp_path])


def test_the_time_is_that_of_the_steps(tmp_path):
    make_run(tmp_path)
    text = " ".join(Page(write_report(tmp_path).read_text()).text)
    assert "training time" in text and "20.0 s" in text  # 40 steps of half a second


def test_a_run_that_is_being_written_can_be_shown(tmp_path):
    make_run(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "st')
    page = Page(write_report(tmp_path).read_text())
    assert max(page.series()[0]) == 40


def test_a_run_with_only_broken_numbers_is_still_shown(tmp_path):
    row = {"kind": "train", "step": 1, "loss": math.nan, "grad_norm": math.inf}
    sinks = Sinks.open(tmp_path, tensorboard=False)
    sinks.write(**row)
    sinks.write("validation", 1, loss=math.nan)
    sinks.close()
    assert "nan" in " ".join(Page(write_report(tmp_path).read_text()).text)


def test_a_directory_that_is_no_run_is_a_users_error(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="not a run directory"):
            write_report(path)
    assert not list(tmp_path.iterdir())


def test_long_lists_and_texts_say_what_they_leave_out(tmp_path):
    extra = [
        {"kind": "sample", "step": s, "prompt": "", "text": "x" * 4007} for s in range(41, 200)
    ]
    make_run(tmp_path, extra=extra)
    text = " ".join(Page(write_report(tmp_path).read_text()).text)
    assert "60 of 163 are shown" in text and "[7 more characters]" in text


def test_a_comparison_has_every_run_and_loads_nothing(tmp_path):
    bert = make_run(tmp_path / "bert", objectives=("masked_lm", "next_sentence"))
    gpt = make_run(tmp_path / "gpt", steps=30)
    runs = [tmp_path / "bert", tmp_path / "gpt"]
    out = write_comparison(runs, tmp_path / "out" / "all.html")
    page = loads_nothing(out.read_text())
    lines = page.series()
    for rows, key in ((bert, "loss/masked_lm"), (gpt, "loss")):
        drawn = {step: float(f"{row[key]:.6g}") for step, row in rows["validation"].items()}
        assert drawn in lines
    assert {bert["validation"][40]["perplexity"], gpt["validation"][30]["loss"]} <= set(
        page.numbers
    )
    assert len(page.ids) == len(set(page.ids))


def test_the_table_holds_recorded_values_and_dashes(tmp_path):
    bert = make_run(tmp_path / "bert", objectives=("masked_lm", "next_sentence"))["validation"][40]
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").write_text("model: {name: gpt}\n")
    lines = summary_table([tmp_path / "bert", tmp_path / "new"]).splitlines()
    cells = re.split(r"\s{2,}", lines[3])
    token = bert["loss/masked_lm"]  # what the perplexity belongs to, and not the sum
    loss = f"{token:.3f}" if token >= 1 else f"{token:.4f}"
    assert cells[:6] == ["bert", "tiny, 2 layers", "4,385,920", "40", "5,120", loss]
    assert cells[8:] == ["6.543", "20.0 s"]
    assert re.split(r"\s{2,}", lines[4]) == ["new", "gpt", *["-"] * 8]
    assert "masked LM" in lines[5] and "next sentence" in lines[5] and "in all" in lines[5]
    assert cells[7].endswith("*") and lines[-1].startswith("* of the masked tokens alone")


def test_a_loss_above_the_unigram_entropy_is_explained(tmp_path):
    make_run(tmp_path / "run")
    summary = tmp_path / "run" / "summary.json"
    for entropy, is_explained in ((0.01, True), (50.0, False)):
        content = {**json.loads(summary.read_text()), "unigram_entropy": entropy}
        summary.write_text(json.dumps(content))
        assert ("above the unigram entropy" in summary_table([tmp_path / "run"])) == is_explained


def test_runs_of_one_name_are_told_apart(tmp_path):
    for parent in ("a", "b"):
        make_run(tmp_path / parent / "run")
    table = summary_table([tmp_path / "a/run", tmp_path / "b/run"])
    assert "a/run" in table and "b/run" in table

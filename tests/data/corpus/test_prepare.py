"""Preparing a store: right contents, and the same bytes however often it is killed."""

import hashlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import types
from collections import Counter

import numpy as np
import pytest
from sample_texts import NASTY, documents

from jaxssl.commands.inspect import inspect_path
from jaxssl.core.errors import UserError
from jaxssl.data.corpus.config import PrepareConfig
from jaxssl.data.corpus.contents import read_contents
from jaxssl.data.corpus.prepare import prepare
from jaxssl.data.corpus.sources import Docstrings, Hub, Jsonl, TextFiles
from jaxssl.data.store.store import TokenStore
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.data.tokenizer.training import TokenizerTrainConfig, train_on_texts

TEXTS = [*documents(150), *NASTY]
MORE = (Docstrings(packages=("packaging",)),)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a corpus of jsonl files (some lines bad) and two tokenizers."""
    folder = tmp_path_factory.mktemp("prepare")
    lines = [json.dumps({"text": t, "site": f"s{i // 3}"}) for i, t in enumerate(TEXTS)]
    lines.insert(20, '{"text": "cut')
    lines.insert(90, '{"txt": "no key"}')
    (folder / "corpus").mkdir()
    (folder / "corpus/a.jsonl").write_text("\n".join(lines[:100]) + "\n")
    (folder / "corpus/b.jsonl").write_text("\n".join(lines[100:]) + "\n")
    for kind, size in (("wordpiece", 700), ("byte_bpe", 600)):
        config = TokenizerTrainConfig(source=Docstrings(), kind=kind, out=kind, vocab_size=size)
        train_on_texts(config, lambda: TEXTS).save(folder / kind)
    return folder


def config(work, out, **options):
    source = Jsonl(paths=(str(work / "corpus"),), group_key="site")
    defaults = {"validation_fraction": 0.2, "test_fraction": 0.1, "tasks": 5, "workers": 1}
    defaults |= {"source": source, "tokenizer": str(work / "byte_bpe"), "max_unknown_rate": 0.2}
    defaults |= {"max_set_aside": 0.02}
    return PrepareConfig(out=str(out), **{**defaults, **options})


def digest(folder):
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(folder.rglob("*"))
        if f.is_file()
    }


def split_documents(store, name):
    """Content ids of each document of a split, and those of its sentences."""
    split = store.split(name)
    ends = split.document_ends(np.arange(split.num_documents))
    stream = split.tokens(np.arange(split.num_tokens))
    return [part[:-1].tolist() for part in np.split(stream, ends[:-1])]


@pytest.mark.parametrize("kind", ["byte_bpe", "wordpiece"])
def test_the_store_holds_each_document_once_encoded_whole(work, tmp_path, kind):
    store = prepare(config(work, tmp_path / "s", tokenizer=str(work / kind)))
    tokenizer = load_tokenizer(work / kind)
    expected = [row.tolist() for text in TEXTS for row in tokenizer.encode_batch([text])]
    found = [d for name in store.manifest.splits for d in split_documents(store, name)]
    assert sorted(found) == sorted(expected)
    assert set(store.manifest.splits) == {"train", "validation", "test"}
    total = sum(s.bytes for s in store.manifest.splits.values())
    assert total == sum(len(text.encode()) for text in TEXTS)
    counts = Counter(id_ for d in split_documents(store, "train") for id_ in d)
    shares = np.array(list(counts.values())) / counts.total()
    entropy = -sum(p * math.log(p) for p in shares)
    assert store.manifest.splits["train"].unigram_entropy == pytest.approx(entropy)
    assert store.manifest.largest_id == max(max(max(d) for d in found), store.document_end)
    assert store.document_end == tokenizer.document_end
    assert load_tokenizer(tmp_path / "s/tokenizer").fingerprint == tokenizer.fingerprint
    TokenStore.open(tmp_path / "s", verify=True)


def test_what_cannot_be_read_is_counted_listed_and_told(work, tmp_path, capsys):
    store = prepare(config(work, tmp_path / "s"))
    aside = store.manifest.set_aside
    assert aside["documents"] == 2 and aside["file"] == "set_aside.jsonl"
    assert aside["kinds"] == {"not JSON": 1, "no key 'text'": 1}
    assert [line.partition(": ")[0] for line in aside["first"]] == [
        f"{work}/corpus/a.jsonl:{number}" for number in (21, 91)
    ]
    said = capsys.readouterr().err
    total = sum(split.documents for split in store.manifest.splits.values()) + 2
    assert f"set aside: 2 of {total} documents: 1 not JSON; 1 no key 'text'" in said
    assert "a.jsonl:21: not JSON: " in said
    assert f"set aside: 2 of {total}" in "\n".join(inspect_path(tmp_path / "s"))
    rows = [json.loads(line) for line in (tmp_path / "s/set_aside.jsonl").read_text().splitlines()]
    assert [(row["path"].rpartition("/")[2], row["line"]) for row in rows] == [
        ("a.jsonl", 21),
        ("a.jsonl", 91),
    ]


def test_too_large_a_share_set_aside_is_refused_and_a_larger_limit_goes_on(work, tmp_path):
    """Four of ten files in cp1252. Empty files lose no text, so they do not count."""
    (tmp_path / "corpus").mkdir()
    for i in range(10):
        text = f"Größe {i}. " + TEXTS[i]
        (tmp_path / f"corpus/{i}.txt").write_bytes(text.encode("cp1252" if i < 4 else "utf-8"))
        (tmp_path / f"corpus/empty{i}.txt").write_text("")
    source = TextFiles(paths=(str(tmp_path / "corpus"),))
    with pytest.raises(UserError, match="too many documents cannot be used") as error:
        prepare(config(work, tmp_path / "s", source=source))
    told = "40.00%; set aside: 14 of 20 documents: 10 the text is empty; 4 not UTF-8"
    assert told in str(error.value)
    assert not (tmp_path / "s/manifest.json").exists()
    done = {f: f.stat().st_mtime_ns for f in (tmp_path / "s").rglob("*.tokens")}
    store = prepare(config(work, tmp_path / "s", source=source, max_set_aside=0.4))
    assert sum(split.documents for split in store.manifest.splits.values()) == 6
    assert done == {f: f.stat().st_mtime_ns for f in (tmp_path / "s").rglob("*.tokens")}
    with pytest.raises(UserError, match="too many documents cannot be used"):
        prepare(config(work, tmp_path / "s", source=source))  # of a finished one, too


def test_groups_stay_together_and_the_split_is_that_of_one_task(work, tmp_path):
    parts = []
    for tasks in (1, 5):
        store = prepare(config(work, tmp_path / f"s{tasks}", tasks=tasks))
        parts.append({n: sorted(split_documents(store, n)) for n in store.manifest.splits})
    assert parts[0] == parts[1]
    tokenizer = load_tokenizer(work / "byte_bpe")
    site = {tuple(tokenizer.encode_batch([t])[0]): i // 3 for i, t in enumerate(TEXTS)}
    sites = {name: {site[tuple(d)] for d in found} for name, found in parts[0].items()}
    assert not sites["train"] & sites["validation"] and not sites["train"] & sites["test"]
    assert 0.05 < len(sites["validation"]) / len(set(site.values())) < 0.4
    other = prepare(config(work, tmp_path / "other", seed=1))
    assert sorted(split_documents(other, "validation")) != parts[0]["validation"]


@pytest.mark.parametrize("keys", [{}, {"group_key": "site", "id_key": "name"}])
def test_the_split_of_a_hub_data_set_is_that_of_one_task(work, tmp_path, keys):
    (tmp_path / "data").mkdir()
    for part in (0, 1, 2):
        rows = [
            {"text": text, "site": f"s{i // 3}", "name": f"n{i}"} for i, text in enumerate(TEXTS)
        ]
        lines = "\n".join(map(json.dumps, rows[part::3])) + "\n"
        (tmp_path / f"data/train-{part}.jsonl").write_text(lines)
    source, parts = Hub(dataset=str(tmp_path / "data"), **keys), []
    for tasks in (1, 5):
        store = prepare(config(work, tmp_path / f"s{tasks}", tasks=tasks, source=source))
        parts.append({n: sorted(split_documents(store, n)) for n in store.manifest.splits})
    assert parts[0] == parts[1] and len(parts[0]) == 3
    if keys:
        tokenizer = load_tokenizer(work / "byte_bpe")
        site = {tuple(tokenizer.encode_batch([t])[0]): i // 3 for i, t in enumerate(TEXTS)}
        sites = {name: {site[tuple(d)] for d in found} for name, found in parts[0].items()}
        assert not sites["train"] & sites["validation"] and not sites["train"] & sites["test"]


def test_the_tasks_of_a_process_load_their_tokenizer_once(work, tmp_path, monkeypatch):
    from jaxssl.data.corpus import writer

    loads = []
    load = writer.load_tokenizer
    monkeypatch.setattr(writer, "load_tokenizer", lambda path: loads.append(path) or load(path))
    prepare(config(work, tmp_path / "s", tasks=5))
    assert len(loads) == 1
    other = prepare(config(work, tmp_path / "t", tokenizer=str(work / "wordpiece")))
    assert len(loads) == 2 and other.vocab_size == load_tokenizer(work / "wordpiece").vocab_size


def test_sentences_by_line_rule_or_not_at_all(work, tmp_path):
    counts = {}
    for how in ("rule", "line", "none"):
        store = prepare(config(work, tmp_path / how, sentences=how))
        splits = store.manifest.splits.values()
        counts[how] = sum(s.sentences for s in splits)
        documents_ = sum(s.documents for s in splits)
    assert counts["none"] == documents_ < counts["line"] < counts["rule"]


def test_processes_do_not_change_the_bytes(work, tmp_path):
    prepare(config(work, tmp_path / "one", workers=1))
    prepare(config(work, tmp_path / "two", workers=2))
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_a_document_in_parts_is_one_document(work, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxssl.data.corpus.readers.PART_BYTES", 500)
    (tmp_path / "text").mkdir()
    for i in range(3):
        (tmp_path / f"text/{i}.txt").write_text("\n\n".join(documents(20, seed=i)))
    source = TextFiles(paths=(str(tmp_path / "text"),))
    store = prepare(
        config(work, tmp_path / "s", source=source, validation_fraction=0.0, test_fraction=0.0)
    )
    tokenizer = load_tokenizer(work / "byte_bpe")
    texts = [(tmp_path / f"text/{i}.txt").read_text() for i in range(3)]
    assert sorted(split_documents(store, "train")) == sorted(
        row.tolist() for row in tokenizer.encode_batch(texts)
    )
    assert store.split("train").record.bytes == sum(len(t.encode()) for t in texts)


def test_several_sources_with_the_docstrings_of_a_package(work, tmp_path):
    source = Jsonl(paths=(str(work / "corpus"),), group_key="site")
    store = prepare(config(work, tmp_path / "s", source=source, more_sources=MORE))
    alone = prepare(config(work, tmp_path / "alone", source=MORE[0]))
    count = sum(s.documents for s in store.manifest.splits.values())
    assert count == len(TEXTS) + sum(s.documents for s in alone.manifest.splits.values())
    assert [s["name"] for s in store.manifest.sources] == ["jsonl", "docstrings"]


# The n-th child is killed before or after its n-th rename, until one gets through: a rename is what
# makes a result visible.
KILLED_AT_RENAMES = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = ["tests/data", "tests/data/corpus"]
import test_prepare as t
from jaxssl.data.corpus import executor, readers, writer
from jaxssl.data.store import packing
work, out = Path(sys.argv[1]), sys.argv[2]
real, deaths = os.replace, 0
while True:
    if not (child := os.fork()):
        count = 0
        def replace(*paths):
            global count
            count += 1
            if count == 1 + deaths and deaths % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*paths)
            if count == 1 + deaths:
                os.kill(os.getpid(), signal.SIGKILL)
        os.replace = replace
        t.prepare(t.config(work, out, pack_lengths=(64,), more_sources=t.MORE))
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    deaths += 1
    assert deaths < 100
print(deaths)
"""


def test_killed_at_every_step_it_ends_with_the_same_bytes(work, tmp_path):
    prepare(config(work, tmp_path / "whole", pack_lengths=(64,), more_sources=MORE))
    command = [sys.executable, "-c", KILLED_AT_RENAMES, str(work), str(tmp_path / "killed")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
    assert digest(tmp_path / "whole") == digest(tmp_path / "killed")


RUN = """
import sys
from pathlib import Path
sys.path[:0] = ["tests/data", "tests/data/corpus"]
import test_prepare as t
if __name__ == "__main__":
    work = Path(sys.argv[1])
    t.prepare(t.config(work, sys.argv[2], workers=2, source=t.large(work)))
"""


def large(work):
    return TextFiles(paths=(str(work / "large.txt"),), documents="blank_lines")


def test_killed_at_random_moments_it_ends_with_the_same_bytes(work, tmp_path):
    (work / "large.txt").write_text("\n\n".join(documents(150) * 25))
    (tmp_path / "run.py").write_text(RUN)
    prepare(config(work, tmp_path / "whole", source=large(work)))
    command = [sys.executable, str(tmp_path / "run.py"), str(work), str(tmp_path / "killed")]
    rng = random.Random(0)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    for _ in range(3):
        run = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
        time.sleep(rng.uniform(1.0, 4.0))
        run.send_signal(signal.SIGKILL)
        run.wait()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "whole") == digest(tmp_path / "killed")


def test_a_complete_store_is_left_alone_and_another_configuration_refused(work, tmp_path, capsys):
    prepare(config(work, tmp_path / "s"))
    before = digest(tmp_path / "s")
    times = {f: f.stat().st_mtime_ns for f in (tmp_path / "s").rglob("*")}
    prepare(config(work, tmp_path / "s", workers=2))
    assert "complete already" in capsys.readouterr().err
    assert digest(tmp_path / "s") == before
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "s").rglob("*")} == times
    for options in ({"seed": 5}, {"tasks": 4}, {"tokenizer": str(work / "wordpiece")}):
        with pytest.raises(UserError, match="another configuration") as error:
            prepare(config(work, tmp_path / "s", **options))
        assert next(iter(options)) in str(error.value)
    assert digest(tmp_path / "s") == before


def test_pack_plans_can_be_added_to_a_complete_store(work, tmp_path):
    prepare(config(work, tmp_path / "s"))
    prepare(config(work, tmp_path / "s", pack_lengths=(32, 64)))
    assert (tmp_path / "s/train/pack-32.json").is_file()
    assert (tmp_path / "s/validation/pack-64.json").is_file()


def test_a_corpus_that_changed_half_way_is_refused(work, tmp_path, monkeypatch):
    (tmp_path / "corpus").mkdir()
    file = tmp_path / "corpus/a.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    options = {"source": Jsonl(paths=(str(file),)), "max_unknown_rate": 0.0}
    options["tokenizer"] = str(work / "wordpiece")
    with pytest.raises(UserError, match="does not know"):
        prepare(config(work, tmp_path / "s", **options))
    file.write_text(file.read_text() + json.dumps({"text": "more"}) + "\n")
    with pytest.raises(UserError, match="corpus has changed"):
        prepare(config(work, tmp_path / "s", **{**options, "max_unknown_rate": 0.5}))


def test_too_many_unknown_tokens_are_refused_early_and_exactly(work, tmp_path):
    tokenizer = load_tokenizer(work / "wordpiece")
    ids = np.concatenate(tokenizer.encode_batch(TEXTS))
    rate = float((ids == tokenizer.special_ids["unk"]).mean())
    assert rate > 0
    options = {"tokenizer": str(work / "wordpiece")}
    with pytest.raises(UserError, match="in the corpus"):
        prepare(config(work, tmp_path / "s", **options, max_unknown_rate=rate * 0.99))
    assert not (tmp_path / "s/manifest.json").exists()
    # The tasks are done: only the threshold changes, and the store is finished.
    prepare(config(work, tmp_path / "s", **options, max_unknown_rate=rate * 1.01))
    (tmp_path / "greek.txt").write_text("Αυτό είναι ελληνικό κείμενο. " * 20)
    source = TextFiles(paths=(str(tmp_path / "greek.txt"),))
    with pytest.raises(UserError, match="beginning"):
        prepare(config(work, tmp_path / "g", source=source, **options))


def test_corpora_without_use_are_refused(work, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"txt": "a"}\n{"text": 1}\n')
    bad = Jsonl(paths=(str(tmp_path / "bad.jsonl"),))
    with pytest.raises(UserError, match="no readable document") as error:
        prepare(config(work, tmp_path / "s", source=bad))
    assert "set aside: 2 of 2 documents" in str(error.value) and "text" in str(error.value)
    (tmp_path / "one.txt").write_text("One document.")
    one = TextFiles(paths=(str(tmp_path / "one.txt"),))
    with pytest.raises(UserError, match="training split is empty"):
        prepare(
            config(work, tmp_path / "e", source=one, validation_fraction=0.9999, test_fraction=0.0)
        )


def test_a_folder_with_other_things_is_not_written_to(work, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="not a token store"):
        prepare(config(work, tmp_path))
    with pytest.raises(UserError, match="not a token store"):
        prepare(config(work, tmp_path / "thesis.tex"))
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_second_run_at_the_same_time_is_refused(work, tmp_path):
    import fcntl

    (tmp_path / "s/.work").mkdir(parents=True)
    with open(tmp_path / "s/.work/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run"):
            prepare(config(work, tmp_path / "s"))


def test_nothing_is_printed_but_the_progress_bar(work, tmp_path, capfd):
    prepare(config(work, tmp_path / "s", workers=2))
    captured = capfd.readouterr()
    assert not captured.out
    assert "datatrove" not in captured.err and "INFO" not in captured.err
    assert "prepare" in captured.err


@pytest.mark.parametrize(
    "options",
    [{"tasks": 0}, {"workers": -1}, {"validation_fraction": 1.0}, {"pack_lengths": (0,)}],
)
def test_options_out_of_range_are_told(options):
    with pytest.raises(UserError, match="out of range"):
        PrepareConfig(source=Docstrings(), tokenizer="t", out="o", **options)


# VmHWM is this program's own; getrusage would count the process that started it too.
MEMORY = """
import re, sys
from pathlib import Path
sys.path[:0] = ["tests/data", "tests/data/corpus"]
import test_prepare as t
work = Path(sys.argv[1])
source = t.Jsonl(paths=(str(work / "long.jsonl"),))
t.prepare(t.config(work, sys.argv[2], tasks=1, source=source, validation_fraction=0.0))
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def test_memory_is_bounded_for_a_word_of_ten_megabytes(work, tmp_path):
    row = json.dumps({"text": "x" * 10_000_000 + " \U0001f600"})
    (work / "long.jsonl").write_text(row + "\n" + json.dumps({"text": "short"}) + "\n")
    command = [sys.executable, "-c", MEMORY, str(work), str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 600_000  # KiB


def lines(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


@pytest.fixture(scope="module")
def made(work, tmp_path_factory):
    """A corpus of three files and the whole store of it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "corpus").mkdir()
    for i in range(3):
        (folder / f"corpus/{i}.jsonl").write_text(lines(TEXTS[40 * i : 40 * i + 40]))
    source = Jsonl(paths=(str(folder / "corpus"),))
    prepare(config(work, folder / "s", source=source))
    return folder


def edit(corpus):
    """One bit in the middle of a file, whose size and time stay."""
    file = corpus / "1.jsonl"
    content, times = bytearray(file.read_bytes()), file.stat()
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def swap(corpus):
    """The contents of two files, exchanged."""
    (corpus / "1.jsonl").rename(corpus / "x")
    (corpus / "2.jsonl").rename(corpus / "1.jsonl")
    (corpus / "x").rename(corpus / "2.jsonl")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (edit, "1 edited (1.jsonl)"),
        (swap, "2 edited (1.jsonl, 2.jsonl)"),
        (lambda c: (c / "more.jsonl").write_text(lines(["more"])), "1 added (more.jsonl)"),
        (lambda c: (c / "0.jsonl").unlink(), "1 removed (0.jsonl)"),
        (lambda c: (c / "0.jsonl").rename(c / "5.jsonl"), "1 added (5.jsonl), 1 removed (0.jsonl)"),
    ],
)
def test_a_whole_store_of_a_corpus_that_changed_is_refused(change, told, made, work, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    change(tmp_path / "corpus")
    source = Jsonl(paths=(str(tmp_path / "corpus"),))
    before = digest(tmp_path / "s")
    with pytest.raises(UserError, match="corpus has changed since this token store") as error:
        prepare(config(work, tmp_path / "s", source=source))
    assert f"got:      {told}" in str(error.value)
    assert digest(tmp_path / "s") == before


def test_a_corpus_moved_copied_or_touched_is_the_same(made, work, tmp_path, capsys, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, copy_function=shutil.copyfile)
    monkeypatch.chdir(tmp_path)
    for path in ("corpus", str(tmp_path / "corpus/*.jsonl")):
        prepare(config(work, tmp_path / "s", source=Jsonl(paths=(path,))))
        assert "complete already" in capsys.readouterr().err


def test_what_has_the_same_size_and_time_is_not_read_again(made, monkeypatch):
    from jaxssl.data.corpus import contents

    sources = [Jsonl(paths=(str(made / "corpus"),))]
    known = read_contents(sources)
    monkeypatch.setattr(contents, "_sha256", lambda file: pytest.fail(f"{file} was read"))
    later = time.time_ns() + 10**10
    assert read_contents(sources, known, later) == known
    monkeypatch.undo()
    assert [c.sha256 for c in known] == [
        hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted((made / "corpus").iterdir())
    ]


def test_a_store_that_does_not_note_its_corpus_says_so(made, work, tmp_path, capsys):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    (tmp_path / "s/inputs.jsonl").unlink()
    prepare(config(work, tmp_path / "s", source=Jsonl(paths=(str(tmp_path / "corpus"),))))
    assert "whether the corpus has changed cannot be seen" in capsys.readouterr().err


def test_other_installed_packages_are_told(work, tmp_path, capsys, monkeypatch):
    from jaxssl.data.corpus import contents

    source = Docstrings(packages=("packaging",))
    prepare(config(work, tmp_path / "s", source=source))
    prepare(config(work, tmp_path / "s", source=source))
    assert "installed packages have changed" not in capsys.readouterr().err
    monkeypatch.setattr(contents, "installed", lambda packages: (1, "of another version"))
    prepare(config(work, tmp_path / "s", source=source))
    assert "installed packages have changed" in capsys.readouterr().err


def test_a_corpus_that_changes_while_it_is_read_is_refused(work, tmp_path, monkeypatch):
    from jaxssl.data.corpus import prepare as module

    (tmp_path / "a.jsonl").write_text(lines(TEXTS))
    source, run = Jsonl(paths=(str(tmp_path / "a.jsonl"),)), module._run

    def run_and_change(*given):
        run(*given)
        (tmp_path / "a.jsonl").write_text(lines(TEXTS[1:]))

    monkeypatch.setattr(module, "_run", run_and_change)
    with pytest.raises(UserError, match="corpus has changed"):
        prepare(config(work, tmp_path / "s", source=source))
    assert not (tmp_path / "s/manifest.json").exists()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one data set: {"sha": its main branch now}, and the revisions that were read."""
    import datasets

    (tmp_path / "hub").mkdir()
    lines = [json.dumps({"text": text}) for text in TEXTS]
    (tmp_path / "hub/train.jsonl").write_text("\n".join(lines) + "\n")
    state, load = {"sha": "a" * 40, "read": [], "fails_at": 0}, datasets.load_dataset

    def fake_load(path, *, revision=None, **options):
        assert path == "owner/texts"
        state["read"].append(revision)
        if len(state["read"]) == state["fails_at"]:
            raise ConnectionError("gone")
        return load(str(tmp_path / "hub"), **options)

    def fake_info(self, repo_id, *, revision=None, **options):
        if state["sha"] is None:
            raise ConnectionError("no network")
        return types.SimpleNamespace(sha=revision or state["sha"])

    monkeypatch.setattr("datasets.load_dataset", fake_load)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fake_info)
    return state


def test_a_hub_data_set_is_read_to_the_end_at_the_commit_it_was_begun_with(work, tmp_path, hub):
    wanted = config(work, tmp_path / "s", source=Hub(dataset="owner/texts"))
    hub["fails_at"] = 5
    with pytest.raises(ConnectionError, match="gone"):
        prepare(wanted)
    hub["sha"] = "b" * 40  # the data set moves on
    store = prepare(wanted)
    assert len(hub["read"]) > 5 and set(hub["read"]) == {"a" * 40}
    assert [source["revision"] for source in store.manifest.sources] == ["a" * 40]
    prepare(wanted)  # the same configuration: nothing to do


def test_a_revision_is_read_and_without_the_hub_stays_as_it_was_given(work, tmp_path, hub, capsys):
    hub["sha"] = None
    source = Hub(dataset="owner/texts", revision="v1")
    store = prepare(config(work, tmp_path / "s", source=source))
    assert set(hub["read"]) == {"v1"}
    assert [source["revision"] for source in store.manifest.sources] == ["v1"]
    assert "its commit is not recorded (ConnectionError: no network)" in capsys.readouterr().err
    with pytest.raises(UserError, match="a local folder has no revisions"):
        Hub(dataset=str(tmp_path / "hub"), revision="v1").check()


def test_a_held_out_split_without_a_document_is_told(work, tmp_path, capsys):
    (tmp_path / "one.txt").write_text("One document.\n\nOr two.")
    source = TextFiles(paths=(str(tmp_path / "one.txt"),))
    options = {"source": source, "validation_fraction": 0.01, "max_unknown_rate": 1.0}
    for _ in range(2):  # also where there is nothing to do
        prepare(config(work, tmp_path / "s", **options, test_fraction=0.0))
        err = capsys.readouterr().err
        assert "warning: " in err and "the validation split is empty" in err
        assert "documents=blank_lines" in err and "larger validation_fraction" in err
        assert "test split" not in err
    prepare(config(work, tmp_path / "none", source=source, validation_fraction=0, test_fraction=0))
    assert "warning" not in capsys.readouterr().err

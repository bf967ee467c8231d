"""A toy corpus, its tokenizers and token stores, and runs of a few seconds over them."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import compiled
import numpy as np
import pytest

import jaxssl
from jaxssl.data.corpus.sources import Docstrings
from jaxssl.data.store.manifest import split_record, token_dtype, write_manifest
from jaxssl.data.store.store import ShardWriter
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.data.tokenizer.training import TokenizerTrainConfig, train_on_texts

NAMES = ("the cat", "a dog", "the old man", "my sister", "every bird", "one green fish")
VERBS = ("sees", "follows", "likes", "remembers", "paints", "never finds")
PLACES = ("in the garden", "near a river", "under the table", "on the hill", "at home")
TIMING = ("tokens_per_second", "step_seconds")


def documents(count: int, seed: int = 0) -> list[list[str]]:
    """Documents as lists of sentences; a sentence's space belongs to its beginning."""
    rng = np.random.default_rng(seed)

    def sentence(i):
        subject, verb, thing, place = (
            str(rng.choice(words)) for words in (NAMES, VERBS, NAMES, PLACES)
        )
        return f"{' ' if i else ''}{subject} {verb} {thing} {place}."

    return [[sentence(i) for i in range(rng.integers(2, 6))] for _ in range(count)]


def train_toy_tokenizer(kind: str, vocab_size: int = 300) -> Tokenizer:
    """A tokenizer of the corpus."""
    config = TokenizerTrainConfig(
        source=Docstrings(), out=f"toy-{kind}", kind=kind, vocab_size=vocab_size
    )
    texts = ["".join(document) for document in documents(100)]
    return train_on_texts(config, lambda: texts)


def write_store(path: Path, tokenizer: Tokenizer, counts: dict[str, int]) -> Path:
    """A token store with so many documents in each split."""
    dtype, records = token_dtype(tokenizer.vocab_size), {}
    for seed, (name, count) in enumerate(counts.items()):
        texts = documents(count, seed + 1)
        with ShardWriter(path / name, "00000", dtype, tokenizer.document_end) as writer:
            for text, (tokens, ends) in zip(texts, tokenizer.encode_documents(texts)):
                writer.append(tokens, ends, len("".join(text).encode()))
            records[name] = split_record([writer.finish()], writer.counts)
    tokenizer.save(path / "tokenizer")
    content = {
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype,
        "document_end": tokenizer.document_end,
        "special_ids": tokenizer.special_ids,
        "tokenizer": {"fingerprint": tokenizer.fingerprint, "name": tokenizer.name},
        "splits": records,
    }
    write_manifest(path / "manifest.json", content)
    return path


def without_samples(store: Path) -> Path:
    """Makes the store one of version 0.1, whose shards are not compared by a sample."""
    path = store / "manifest.json"
    manifest = json.loads(path.read_text())
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            del shard["sample"]
    path.write_text(json.dumps(manifest))
    return store


def shared(tmp_path_factory, name: str, make: Callable[[Path], object]) -> Path:
    """A directory that one worker makes and all use; the others wait for it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # the workers'
    place, done = root / name, root / f"{name}.done"
    with open(root / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(place, ignore_errors=True)  # of a worker that failed
            make(place)
            done.touch()
    return place


@pytest.fixture(scope="session")
def words(tmp_path_factory) -> Path:
    """A token store of WordPiece tokens."""
    path = tmp_path_factory.mktemp("stores") / "words"
    return write_store(path, train_toy_tokenizer("wordpiece"), {"train": 100, "validation": 9})


@pytest.fixture(scope="session")
def byte_store(tmp_path_factory) -> Path:
    """A token store of byte-level BPE tokens."""
    path = tmp_path_factory.mktemp("stores") / "bytes"
    return write_store(path, train_toy_tokenizer("byte_bpe"), {"train": 100, "validation": 9})


@contextlib.contextmanager
def well_compiled():
    """Compiles with all optimisation: for many steps of a program that is worth it."""
    import jax

    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", True)


def recipe(store: Path, out: Path, kind: str = "bert") -> dict:
    """A run of 20 steps: BERT with sentence pairs (or windows), or GPT-2, as plain values."""
    tokens = json.loads((store / "manifest.json").read_text())["vocab_size"]
    return recipe_of(kind, store, out, -(-tokens // 8) * 8)


def recipe_of(kind: str, store: Path, out: Path, vocab_size: int) -> dict:
    """The same for a store that need not be there."""
    masked = {"name": "masked_lm", "slots": 8}
    both = {
        "name": "combine",
        "terms": [{"objective": o} for o in (masked, {"name": "next_sentence"})],
    }
    pairs = kind == "bert"
    family = "gpt2" if kind == "gpt2" else "bert"
    return {
        "out": str(out),
        "model": {
            "name": family,
            "vocab_size": vocab_size,
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "intermediate_size": 32,
            "max_positions": 32,
        },
        "objective": {"bert": both, "masked": masked, "gpt2": {"name": "causal_lm"}}[kind],
        "data": {
            "store": str(store),
            "rows": {"name": "pairs" if pairs else "windows"},
            "sequence_length": 16,
            "batch_size": 8,
        },
        "optimizer": {"learning_rate": 0.003, "schedule": {"name": "linear", "warmup": 5}},
        "train": {"steps": 20},
        "evaluation": {"every": 10},
        "checkpoint": {"every": 5},
        "logging": {"every": 5, "tensorboard": False, "progress": False, "compare_full": False},
    }


def configured(store: Path, out: Path, kind: str = "bert", *overrides: str):
    """The validated configuration of `recipe` with overrides."""
    from jaxssl.run.recipes import load_config

    return load_config([recipe(store, out, kind)], overrides)


def write_recipe(path: Path, content: dict) -> Path:
    """A recipe file (JSON is YAML)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def rows_of(run_dir: Path, *kinds: str) -> list[dict]:
    """The rows of metrics.jsonl without what is measured in seconds."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    kept = [row for row in rows if not kinds or row["kind"] in kinds]
    return [{key: v for key, v in row.items() if key not in TIMING} for row in kept]


def restored(run_dir: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by its path, read without our own code."""
    import jax
    import orbax.checkpoint as ocp

    path = run_dir / "checkpoints" / str(step) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        shapes = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            checkpointer.metadata(path).item_metadata.tree,
        )
        tree = checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=shapes))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(name): np.asarray(leaf) for name, leaf in leaves}


def assert_same_arrays(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    """Bit for bit, with the same names."""
    assert got.keys() == want.keys()
    different = [name for name in want if got[name].tobytes() != want[name].tobytes()]
    assert not different, different


def assert_close_arrays(
    got: dict[str, np.ndarray], want: dict[str, np.ndarray], limit: float = 3e-6
) -> None:
    """Within `limit` (relative L2 of each, norms below 0.01 taken as that), with the same names. A
    key's bias is left out: it has no gradient but rounding, for a softmax ignores it."""
    assert got.keys() == want.keys()
    errors = {}
    for name in [name for name in want if "['key']['bias']" not in name]:
        a, b = got[name].astype(np.float64), want[name].astype(np.float64)
        errors[name] = np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-2)
    assert max(errors.values()) <= limit, {k: v for k, v in errors.items() if v > limit}


def start(arguments: list[str], *, devices: int = 1, **options) -> subprocess.Popen:
    """A `jaxssl` process of its own, with so many simulated devices."""
    return started([sys.executable, "-m", "jaxssl", *map(str, arguments)], devices, **options)


IN_TURN = """
import json, sys
from jaxssl import cli
for command in json.loads(sys.argv[1]):
    if code := cli.main(command):
        sys.exit(code)
"""


def start_in_turn(commands: list[list], *, devices: int = 1, **options) -> subprocess.Popen:
    """One process of several commands, up to the first that fails."""
    given = json.dumps([[str(word) for word in command] for command in commands])
    return started([sys.executable, "-c", IN_TURN, given], devices, **options)


def started(command: list[str], devices: int, **options) -> subprocess.Popen:
    """A process that finds the package where this one does."""
    environment = {
        **os.environ,
        "XLA_FLAGS": compiled.flags(devices),
        "PYTHONPATH": os.pathsep.join([str(Path(jaxssl.__file__).parent.parent), *sys.path]),
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **{**pipes, **options})


def finish(process: subprocess.Popen, timeout: float = 240.0) -> tuple[int, str, str]:
    """Its exit code, standard output and standard error."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def last_logged(run_dir: Path) -> int:
    """The last step in metrics.jsonl; 0 without any."""
    try:
        lines = (run_dir / "metrics.jsonl").read_bytes().splitlines()
    except FileNotFoundError:
        return 0
    for line in reversed(lines):
        try:
            return json.loads(line)["step"]
        except ValueError:
            continue
    return 0


def is_saving(run_dir: Path) -> bool:
    """Whether a checkpoint is being written at this moment."""
    steps = (run_dir / "checkpoints").glob("[0-9]*")
    return any(not (step / "manifest.json").exists() for step in steps)

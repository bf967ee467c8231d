"""A labelled task from the default corpus: which library does this docstring come from?

Paragraphs of docstrings, labelled by their package, with the names of the libraries masked. Splits
are by module, so that no module is on both sides; and what is pretrained on has no module of the
test split.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write

MASK = "library"
"""What stands for each library's name."""
ALIASES = {
    "jax": ("jnp", "lax", "xla"),
    "numpy": ("np", "ndarray"),
    "pandas": ("pd",),
    "scipy": ("sp",),
    "sklearn": ("scikit", "scikit-learn", "skl"),
    "tensorflow": ("tf",),
    "transformers": ("hf", "huggingface", "hugging face"),
    "torch": ("pytorch",),
}
MIN_CHARACTERS, MAX_CHARACTERS = 80, 400
SHARES = {"test": 0.2, "validation": 0.1}


def write_libraries(corpus: Path, out: Path, *, labels: int = 8, per_label: int = 500) -> Path:
    """Writes `train.jsonl`, `validation.jsonl` and `test.jsonl` with keys text, library, module.

    Args:
      corpus: the jsonl of `docstrings.write_docstrings`.
      out: the directory.
      labels: how many libraries: those with the most modules.
      per_label: at most so many paragraphs of each, over all splits.

    Raises:
      UserError: fewer than two libraries have docstrings.
    """
    rows = _read(corpus)
    chosen = _chosen(rows, labels)
    if len(chosen) < 2:
        raise UserError(
            "there is nothing to tell apart",
            where=corpus,
            expected="docstrings of at least two packages",
            got=", ".join(chosen) or "none",
        )
    names = [name for package in chosen for name in (package, *ALIASES.get(package, ()))]
    masked = re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b\.?", re.IGNORECASE)
    out.mkdir(parents=True, exist_ok=True)
    examples = list(_examples(rows, chosen, per_label, masked))
    for split in ("train", *SHARES):
        with atomic_write(out / f"{split}.jsonl") as file:
            for example in examples:
                if _split(example["module"]) == split:
                    file.write(json.dumps(example, ensure_ascii=False) + "\n")
    return out


def write_rest(corpus: Path, out: Path, *, labels: int = 8) -> Path:
    """Writes the corpus without the modules that `write_libraries` tests on, to pretrain on."""
    rows = _read(corpus)
    chosen = _chosen(rows, labels)
    with atomic_write(out) as file:
        for row in rows:
            if row["package"] not in chosen or _split(row["id"]) != "test":
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return out


def _read(corpus: Path) -> list[dict]:
    with open(corpus, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _chosen(rows: list[dict], labels: int) -> list[str]:
    """The packages with the most modules."""
    modules = Counter(row["package"] for row in rows)
    return [package for package, _ in modules.most_common(labels)]


def _examples(
    rows: list[dict], chosen: list[str], per_label: int, masked: re.Pattern
) -> Iterator[dict[str, str]]:
    """Paragraphs of prose, at most `per_label` of each label and few of one module."""
    counts: Counter[str] = Counter()
    for row in rows:
        package = row["package"]
        if package not in chosen:
            continue
        for paragraph in _paragraphs(row["text"])[:8]:
            if counts[package] >= per_label:
                break
            counts[package] += 1
            text = masked.sub(lambda found: MASK + "." * found[0].endswith("."), paragraph)
            yield {"text": text, "library": package, "module": row["id"]}


def _paragraphs(text: str) -> list[str]:
    """Those of several words, their lines joined, cut to `MAX_CHARACTERS`."""
    joined = (" ".join(part.split()) for part in text.split("\n\n"))
    return [part[:MAX_CHARACTERS] for part in joined if len(part) >= MIN_CHARACTERS]


def _split(module: str) -> str:
    """The split of a module, by a hash of its name."""
    share = int.from_bytes(hashlib.blake2b(module.encode(), digest_size=8).digest(), "big") / 2**64
    for name, size in SHARES.items():
        if share < size:
            return name
        share -= size
    return "train"

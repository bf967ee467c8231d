"""The token store of an adaptation, with the run's tokenizer or with one that has more pieces.

With further pieces the corpus is read once before it is prepared: the words of what is trained on
are counted, from which the pieces are learnt, and the held-out documents are written down. Of these
a second store is made with the old tokenizer, so that the old model is measured on the same text.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from jaxssl.core import config as configuration
from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write, new_directory
from jaxssl.core.json_files import JsonObject, read_json
from jaxssl.core.progress import bar, tell
from jaxssl.data.corpus.checks import UnknownText
from jaxssl.data.corpus.config import PrepareConfig
from jaxssl.data.corpus.contents import CONTENTS, check_unchanged, read_contents, write_contents
from jaxssl.data.corpus.sources import Docstrings, Jsonl
from jaxssl.data.store.store import TokenStore
from jaxssl.data.tokenizer.extension import check_extensible, count_words, extend
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.run.adapting.request import Request

HELD_OUT = 0.05
"""Share of the documents, unless `--set validation_fraction=...` says otherwise."""
RECORD = "extension.json"
FROM_CORPUS = {"text": "paths", "jsonl": "paths", "hub": "dataset", "docstrings": "packages"}
"""The field of each kind of source that `--corpus` gives."""
LINES = (".jsonl", ".ndjson")
PACKED = ("", ".gz", ".zst", ".bz2", ".xz")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Where the text of the new domain is.

    Attributes:
      store: the token store to train on, whose tokenizer is the new run's.
      split: the held-out documents there.
      old_store: a token store of the same documents with the run's own tokenizer.
      old_split: the same documents there.
    """

    store: str
    split: str = "validation"
    old_store: str
    old_split: str = "validation"


def prepared(request: Request) -> Corpus:
    """Makes what is missing of the token stores of an adaptation.

    Raises:
      UserError: no text, nothing held out, or a store with another tokenizer.
    """
    own = load_tokenizer(request.run / "tokenizer")
    if request.store is not None:
        store = TokenStore.open(request.store)
        check_store(store, own, request.run / "tokenizer", "--store")
        _check_held_out(store)
        return Corpus(store=request.store, old_store=request.store)
    config = prepare_config(request)
    if request.pieces is None:
        store = _made(config)
        return Corpus(store=store, old_store=store)
    check_extensible(own)
    tokenizer = extended(request, config, own)
    store = _made(dataclasses.replace(config, tokenizer=str(tokenizer)))
    return Corpus(
        store=store,
        old_store=_old_store(request, config, tokenizer),
        old_split="train",
    )


def prepare_config(request: Request) -> PrepareConfig:
    """How the corpus is prepared with the run's tokenizer.

    Raises:
      UserError: a mistake in `--corpus` or `--set`.
    """
    taken = [x for x in request.prepare if x.partition("=")[0] in ("out", "tokenizer", "source")]
    if taken:
        raise UserError(
            "this is settled by the command itself",
            where=f"--set {taken[0]}",
            expected="how the corpus is read, such as source.documents=blank_lines, or "
            "validation_fraction=0.1",
            got=taken[0],
            fix="leave it out; `jaxssl prepare` and --store make a store in any other way",
        )
    names = [path.lower() for path in request.corpus]
    is_lines = all(name.endswith(tuple(e + p for e in LINES for p in PACKED)) for name in names)
    given = configuration.combine([], request.prepare).get("source") or {}
    name = given.get("name", "jsonl" if is_lines else "text")
    source: dict[str, Any] = {"name": name}
    if field := FROM_CORPUS.get(name):
        source[field] = list(request.corpus) if field != "dataset" else request.corpus[0]
    layer = {
        "source": source,
        "tokenizer": str(request.run / "tokenizer"),
        "out": str(request.beside / "store"),
        "validation_fraction": HELD_OUT,
    }
    return configuration.load(PrepareConfig, [layer], request.prepare)


def _made(config: PrepareConfig) -> str:
    """The directory of the store, finished."""
    from jaxssl.data.corpus.prepare import prepare

    try:
        _check_held_out(prepare(config))
    except UnknownText as error:
        raise UserError(
            error.what,
            where=error.where,
            expected=error.expected,
            got=error.got,
            fix="learn pieces of this text, --extend-vocabulary N (a larger N), or accept what is "
            "unknown: --set max_unknown_rate=0.2",
        ) from error
    return config.out


def _check_held_out(store: TokenStore) -> None:
    if "validation" in store.manifest.splits:
        return
    raise UserError(
        "no document of the corpus is held out, and nothing could be compared",
        where=store.path,
        expected="a split validation",
        got=", ".join(store.manifest.splits),
        fix=f"delete it (rm -r {store.path}), and give more documents (--set "
        "source.documents=blank_lines, for paragraphs), or hold out more (--set "
        "validation_fraction=0.2)",
    )


def check_store(store: TokenStore, tokenizer: Tokenizer, place: Path, where: str) -> None:
    """Refuses a store that was not prepared with this tokenizer or its beginning, and says how to
    prepare it anew.

    Args:
      place: the tokenizer's directory.
      where: what named the store.

    Raises:
      UserError: another tokenizer.
    """
    own = load_tokenizer(store.path / "tokenizer")
    if own.is_beginning_of(tokenizer):
        return
    raise UserError(
        "the token store was prepared with another tokenizer",
        where=f"{where} {store.path}",
        expected=f"the pieces of {place}, or its first ones, under the same ids",
        got=f"{own.name}, {own.vocab_size:,} pieces ({own.fingerprint[:12]}) and not "
        f"{tokenizer.vocab_size:,} ({tokenizer.fingerprint[:12]})",
        fix=f"jaxssl prepare tokenizer={place} out={store.path}-anew "
        + " ".join(_source_words(store)),
    )


def _source_words(store: TokenStore) -> list[str]:
    """The source of a store, as `jaxssl prepare` takes it."""
    if not store.manifest.sources:
        return ["source.name=text", "'source.paths=[...]'"]
    source = store.manifest.sources[0]
    plain = {key: x for key, x in source.items() if x not in (None, [], ())}
    return [
        f"'source.{key}=[{', '.join(map(str, x))}]'"
        if isinstance(x, list | tuple)
        else f"source.{key}={x}"
        for key, x in plain.items()
    ]


# --- Further pieces -----------------------------------------------------------------------------


def extended(request: Request, config: PrepareConfig, own: Tokenizer) -> Path:
    """The directory of the tokenizer with further pieces, which are learnt if it is not there.

    The held-out documents are then beside it, in `held_out.jsonl`.

    Raises:
      UserError: it was made of something else, or the text has nothing to learn.
    """
    directory = request.beside / "tokenizer"
    asked = {
        "pieces": request.pieces,
        "tokenizer": own.fingerprint,
        "source": configuration.to_dict(config.sources),
        "seed": config.seed,
        "fractions": config.fractions,
    }
    asked = json.loads(json.dumps(asked))
    if directory.exists():
        what, fix = "the record of an extended tokenizer is damaged", f"delete {directory}"
        found = read_json(directory / RECORD, JsonObject, what=what, fix=fix)
        if found != asked:
            differing = [key for key in asked if found.get(key) != asked[key]]
            raise UserError(
                "the tokenizer there has pieces that were learnt otherwise",
                where=directory,
                expected="; ".join(f"{key}: {asked[key]}" for key in differing),
                got="; ".join(f"{key}: {found.get(key)}" for key in differing),
                fix="choose another --out, or give the old values",
            )
        check_unchanged(directory / CONTENTS, config.sources, "tokenizer")
        return directory
    with new_directory(directory) as made:
        for source in config.sources:
            source.check()
        write_contents(made / CONTENTS, read_contents(config.sources))
        with open(_held_out(made), "w", encoding="utf-8") as file:
            words = count_words(own, _trained_texts(config, request.beside, file))
        larger = extend(own, words, request.pieces or 0)
        larger.save(made)
        with atomic_write(made / RECORD) as file:
            json.dump(asked, file, indent=1)
    learnt = larger.vocab_size - own.vocab_size
    if learnt < (request.pieces or 0):
        tell(f"note: the text supports {learnt:,} further pieces, not {request.pieces:,}")
    return directory


def _held_out(tokenizer: Path) -> Path:
    """The file of the held-out documents."""
    return tokenizer / "held_out.jsonl"


def _trained_texts(config: PrepareConfig, scratch: Path, held_out: TextIO) -> Iterator[str]:
    """The texts that will be trained on, parts of one document apart; what `prepare` will hold out
    for validation is written down."""
    from jaxssl.data.corpus.writer import choose_split

    parts: list[str] = []
    with bar(description="count words", unit="B") as progress:
        for source in config.sources:
            if isinstance(source, Docstrings):
                source = source.collected(scratch / "docstrings")
            for document in source.reader().run():
                group = str(document.metadata.get("group", document.id))
                split = choose_split(config.seed, group, config.fractions)
                progress.update(len(document.text.encode()))
                if split == "train":
                    yield document.text
                elif split == "validation":
                    parts.append(document.text)
                    if not document.metadata.get("more"):
                        held_out.write(json.dumps({"text": "".join(parts)}) + "\n")
                        parts = []


def _old_store(request: Request, config: PrepareConfig, tokenizer: Path) -> str:
    """The held-out documents with the run's own tokenizer. What it does not know counts as unknown
    there, however much that is."""
    from jaxssl.data.corpus.prepare import prepare

    old = dataclasses.replace(
        config,
        source=Jsonl(paths=(str(_held_out(tokenizer)),)),
        more_sources=(),
        out=str(request.beside / "held-out"),
        validation_fraction=0.0,
        test_fraction=0.0,
        max_unknown_rate=1.0,
        tasks=1,
    )
    return str(prepare(old).path)

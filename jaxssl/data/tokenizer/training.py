"""Training tokenizers: WordPiece, byte-level BPE, SentencePiece BPE and Unigram; or taking one as
it is, with further special tokens.

The same text and options give the same files, byte for byte.
"""

import dataclasses
import hashlib
import io
import itertools
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from jaxssl.core.bounds import check_at_least, check_local, check_unused
from jaxssl.core.config import MISSING, to_dict
from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write, new_directory
from jaxssl.core.json_files import read_json
from jaxssl.core.progress import bar, tell
from jaxssl.data.corpus.contents import CONTENTS, check_unchanged, read_contents, write_contents
from jaxssl.data.corpus.sentences import split_long
from jaxssl.data.corpus.sources import Docstrings, SourceConfig
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.data.tokenizer.sentencepiece_model import with_control_pieces
from jaxssl.data.tokenizer.special import sentinels, with_special
from jaxssl.data.tokenizer.tokenizer import Tokenizer

Texts = Callable[[], Iterable[str]]
WORDPIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
END_OF_TEXT = "<|endoftext|>"
ALPHABET = 1000
RECORD = "training.json"
LATER_FIELDS = {"special_tokens": [], "sentinels": 0, "extends": None}
"""What records of version 0.1 do not have."""
_WORD_MARK = "\u2581"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerTrainConfig:
    """Training a tokenizer on a corpus, or adding special tokens to one that is there."""

    source: SourceConfig | None = None
    """The text to learn from. Required without `extends`."""
    extends: str | None = None
    """Tokenizer directory, SentencePiece .model file or name on the hub, to be taken as it is:
    `sentinels` and `special_tokens` that it lacks follow its ids. No text is read."""
    out: str
    """Directory to write; a Hugging Face tokenizer directory."""
    kind: Literal["wordpiece", "byte_bpe", "sentencepiece_bpe", "sentencepiece_unigram"] = (
        "wordpiece"
    )
    """WordPiece as in BERT ([PAD] [UNK] [CLS] [SEP] [MASK]), byte-level BPE as in GPT-2
    (<|endoftext|>), or SentencePiece's BPE or Unigram (<pad> <unk> <s> </s> <mask>)."""
    vocab_size: int = 8192
    """Number of pieces, special tokens included. Training stops below it where the text is too
    small; the result is then stated."""
    lowercase: bool = False
    """Ignore case (WordPiece also removes accents, as BERT's uncased models do)."""
    min_frequency: int = 2
    """How often two pieces must occur side by side to be joined. Not used by SentencePiece."""
    character_coverage: float = 0.9995
    """Share of the text's characters to know; the rarest others become unknown. Byte-level BPE
    knows all."""
    extra_roles: tuple[Literal["pad", "mask", "cls", "sep"], ...] = ()
    """Special tokens to add to byte-level BPE, as <|pad|>."""
    special_tokens: tuple[str, ...] = ()
    """Further special tokens, which no text is made of, for objectives that name them
    (<fim_prefix>, <fim_suffix>, <fim_middle>)."""
    sentinels: int = 0
    """Number of special tokens that stand for spans of a text, for objectives as T5's, which has
    100. They are the last ids, as there, and <extra_id_0> is the very last."""
    max_bytes: int | None = None
    """Learn from this much of the text's beginning, in UTF-8 bytes; null means all of it."""

    def __post_init__(self):
        check_local(self, "out")
        check_at_least(0, self, "sentinels")
        self._check_special()
        if self.extends is not None:
            self._check_extends()
            return
        if self.source is None:
            raise UserError(
                MISSING,
                where="source",
                expected="a text to learn from, or a tokenizer to extend",
                fix="give source.name=text and 'source.paths=[...]', for example; or "
                "extends=TOKENIZER",
            )
        more = len(self.special_tokens) + self.sentinels
        smallest = {"byte_bpe": 257 + len(self.extra_roles)}.get(self.kind, 100) + more
        for name, low, value in (
            ("vocab_size", smallest, self.vocab_size),
            ("min_frequency", 1, self.min_frequency),
            ("max_bytes", 1, self.max_bytes if self.max_bytes is not None else 1),
        ):
            if value < low:
                raise UserError("too small", where=name, expected=f"{low} or more", got=value)
        if not 0 < self.character_coverage <= 1:
            raise UserError(
                "not a share",
                where="character_coverage",
                expected="above 0, at most 1",
                got=self.character_coverage,
            )
        unused = {"byte_bpe": ["character_coverage"], "wordpiece": []}
        check_unused(self, unused.get(self.kind, ["min_frequency"]), where=f"with kind={self.kind}")
        if self.extra_roles and self.kind != "byte_bpe":
            raise UserError(
                "only byte-level BPE takes extra roles",
                where="extra_roles",
                expected="none: the other kinds have pad, mask, cls and sep",
                got=", ".join(self.extra_roles),
            )

    def _check_special(self) -> None:
        """Refuses special tokens that are none, or are named twice."""
        tokens = self.special_tokens
        blank = [token for token in tokens if not token.strip()]
        if blank or len({*tokens, *sentinels(self.sentinels)}) < len(tokens) + self.sentinels:
            raise UserError(
                "these are no special tokens",
                where="special_tokens",
                expected="different strings with something to see"
                + (", and no sentinels, which are made besides" if self.sentinels else ""),
                got=list(tokens),
            )

    def _check_extends(self) -> None:
        """Refuses what only training reads, and a tokenizer that is to get nothing."""
        added = ("extends", "out", "sentinels", "special_tokens")
        others = [x.name for x in dataclasses.fields(self) if x.name not in added]
        why = "nothing is learnt: the tokenizer is taken as it is"
        check_unused(self, others, where="with extends", fix=f"leave them out, {why}")
        if not self.sentinels and not self.special_tokens:
            raise UserError(
                "there is nothing to extend the tokenizer with",
                where="extends",
                expected="special tokens to put behind its ids",
                got="neither sentinels nor special_tokens",
                fix="give sentinels=100, or 'special_tokens=[<name>]'",
            )

    @property
    def room(self) -> int:
        """Number of pieces, special tokens included, that come before the sentinels."""
        return self.vocab_size - self.sentinels


def train_tokenizer(config: TokenizerTrainConfig) -> Tokenizer:
    """Trains a tokenizer on `config.source`, or takes that of `config.extends`, and saves it to
    `config.out`.

    Does nothing but load it when it was made before with the same configuration of the same corpus
    or tokenizer.

    Raises:
      UserError: bad corpus or tokenizer, `out` holds something else, or what it was made of has
        changed.
    """
    out = Path(config.out)
    wanted = {**to_dict(config), "out": None}
    if config.extends is not None:
        return _extended(config, out, wanted)
    assert config.source is not None
    if _is_done(out, wanted):
        check_unchanged(out / CONTENTS, [config.source], "tokenizer")
        return _as_before(out)
    config.source.check()
    with new_directory(out) as directory, tempfile.TemporaryDirectory() as scratch:
        write_contents(directory / CONTENTS, read_contents([config.source]))
        tokenizer = train_on_texts(config, _texts(config, Path(scratch)))
        check_unchanged(directory / CONTENTS, [config.source], "tokenizer")
        _save(tokenizer, directory, wanted)
    return tokenizer


def _extended(config: TokenizerTrainConfig, out: Path, wanted: dict) -> Tokenizer:
    """The tokenizer of `config.extends` with further special tokens, in `out`."""
    old = load_tokenizer(str(config.extends))
    files = [[name, hashlib.sha256(old.files[name]).hexdigest()] for name in sorted(old.files)]
    wanted = {**wanted, "extended": hashlib.sha256(json.dumps(files).encode()).hexdigest()}
    if _is_done(out, wanted):
        return _as_before(out)
    asked = (*config.special_tokens, *sentinels(config.sentinels))
    larger = with_special(old, asked)
    if larger is old:
        raise UserError(
            "the tokenizer has all of these tokens already",
            where=config.extends,
            expected="special tokens that it lacks",
            got=", ".join(asked[:3]) + (f" and {len(asked) - 3} more" if asked[3:] else ""),
            fix=f"use it as it is: tokenizer={config.extends}",
        )
    larger.name = out.name
    with new_directory(out) as directory:
        _save(larger, directory, wanted)
    tell(
        f"special tokens behind the {old.vocab_size:,} ids of {config.extends}: "
        f"{larger.vocab_size - old.vocab_size:,}; for its model: "
        f"model.vocab_size={larger.vocab_size}"
    )
    return larger


def _as_before(out: Path) -> Tokenizer:
    print(f"{out}: already trained with this configuration", file=sys.stderr)
    return load_tokenizer(out)


def _save(tokenizer: Tokenizer, directory: Path, wanted: dict) -> None:
    tokenizer.save(directory)
    with atomic_write(directory / RECORD) as file:
        json.dump(wanted, file, indent=1)


def train_on_texts(config: TokenizerTrainConfig, texts: Texts) -> Tokenizer:
    """Trains on the texts that each call of `texts` yields; writes nothing, reads no source."""
    trained = _TRAINERS[config.kind](config, texts)
    if trained.vocab_size < config.vocab_size:
        smaller = "" if config.kind.startswith("sentencepiece") else " or a smaller min_frequency"
        print(
            f"note: the text supports a vocabulary of {trained.vocab_size:,} pieces, not "
            f"{config.vocab_size:,} (vocab_size; more text{smaller} gives more); for its model: "
            f"model.vocab_size={trained.vocab_size}",
            file=sys.stderr,
        )
    return trained


def _is_done(out: Path, wanted: dict) -> bool:
    """Whether this tokenizer is there already. Where its corpus, or the tokenizer that it extends,
    lies is not compared."""
    record = out / RECORD
    if record.is_file():
        what, fix = "the record of a tokenizer is damaged", "delete the directory to train it anew"
        found = read_json(record, what=what, fix=fix)
        found, asked = _without_place({**LATER_FIELDS, **found}), _without_place(wanted)
        if found == asked:
            return True
        if found | {"extended": None} == asked | {"extended": None}:
            raise UserError(
                "the tokenizer to extend has changed since this one was made of it",
                where=f"extends={wanted['extends']}",
                expected=f"the files that {out} was made of ({str(found['extended'])[:12]})",
                got=f"other files ({asked['extended'][:12]})",
                fix="choose another `out`, or delete this directory",
            )
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(
            "there is something here already, and it is no tokenizer of this configuration",
            where=out,
            expected="an empty or new directory",
            got="another tokenizer (see training.json)" if record.is_file() else "other files",
            fix="choose another `out`, or delete this directory",
        )
    return False


def _without_place(record: dict) -> dict:
    source = record.get("source")
    kept = source.items() if isinstance(source, dict) else ()
    source = {key: value for key, value in kept if key != "paths"}
    return {**record, "source": source, "extends": record["extends"] is not None}


def _texts(config: TokenizerTrainConfig, scratch: Path) -> Texts:
    """The source's texts, with a progress bar; collected only once if that is costly."""
    source = config.source
    assert source is not None
    if isinstance(source, Docstrings):
        source = source.collected(scratch)

    def read() -> Iterator[str]:
        reader = source.reader()
        size = 0
        with bar(description="reading text", unit="B") as progress:
            for document in reader.run():
                added = len(document.text.encode())
                size += added
                progress.update(added)
                yield document.text
                if config.max_bytes is not None and size >= config.max_bytes:
                    break
        skipped = reader.skipped
        if skipped.count:
            tell(f"{skipped.count:,} documents could not be read; the first: {skipped.first}")
        if not size:
            raise UserError(
                "the corpus has no readable text",
                where="source",
                got=skipped.first or "none",
            )

    return read


# --- The four kinds -------------------------------------------------------------------------


def _train_wordpiece(config: TokenizerTrainConfig, texts: Texts) -> Tokenizer:
    """BERT's WordPiece.

    The library's own WordPiece trainer numbers its alphabet in the order of a randomly seeded hash
    map, and breaks ties by number, so that no two runs agree. Its BPE trainer is exact. So merges
    are learnt with a mark at the start of each word; pieces are then written in WordPiece's way.
    """
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    normalizer = normalizers.BertNormalizer(lowercase=config.lowercase)
    starting, continuing = _alphabets(config, texts, normalizer)
    alphabet = sorted({*starting, *continuing})
    learner = Library(models.BPE())
    learner.normalizer = normalizer
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.BertPreTokenizer(),
            pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=config.room + 2 * len(alphabet),
        min_frequency=config.min_frequency,
        initial_alphabet=[_WORD_MARK, *alphabet],
        limit_alphabet=len(alphabet) + 1,
        show_progress=False,
    )
    learner.train_from_iterator(_pieces(texts()), trainer)
    specials = tuple(dict.fromkeys((*WORDPIECE_SPECIALS, *config.special_tokens)))
    vocabulary = _wordpiece_vocabulary(
        [*specials, *starting, *(f"##{c}" for c in continuing)], _merged(learner), config.room
    )

    library = Library(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    library.normalizer = normalizer
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    library.add_special_tokens(list(specials))
    roles = zip(("pad", "unk", "cls", "sep", "mask"), WORDPIECE_SPECIALS)
    return _from_library(config, library, dict(roles))


def _train_byte_bpe(config: TokenizerTrainConfig, texts: Texts) -> Tokenizer:
    """GPT-2's byte-level BPE."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    library = Library(models.BPE())
    if config.lowercase:
        library.normalizer = normalizers.Lowercase()
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.post_processor = processors.ByteLevel(trim_offsets=False)
    roles = {"bos": END_OF_TEXT, "eos": END_OF_TEXT}
    roles |= {role: f"<|{role}|>" for role in config.extra_roles}
    trainer = trainers.BpeTrainer(
        vocab_size=config.room,
        min_frequency=config.min_frequency,
        special_tokens=list(dict.fromkeys((*roles.values(), *config.special_tokens))),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    library.train_from_iterator(_pieces(texts()), trainer)
    return _from_library(config, library, roles)


def _train_sentencepiece(config: TokenizerTrainConfig, texts: Texts) -> Tokenizer:
    """SentencePiece's BPE or Unigram. The library refuses a text that supports fewer pieces than it
    is asked for, and says how many it does: so many are learnt."""
    from jaxssl.data.tokenizer.loading import JSON_FILE, SentencePieceTokenizer
    from jaxssl.data.tokenizer.sentencepiece_export import tokenizer_json

    try:
        content = _sentencepiece_model(config, texts, config.room)
    except RuntimeError as error:
        most = re.search(r"value <= (\d+)", str(error))
        if most is None:
            raise _sentencepiece_error(config, str(error)) from error
        content = _sentencepiece_model(config, texts, int(most.group(1)))
    content = with_control_pieces(content, sentinels(config.sentinels))
    exported = tokenizer_json(content)
    files = {JSON_FILE: exported} if exported else {}
    return SentencePieceTokenizer(Path(config.out).name, content, None, files)


def _sentencepiece_model(config: TokenizerTrainConfig, texts: Texts, vocab_size: int) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_lines(texts()),
        model_writer=model,
        vocab_size=vocab_size,
        model_type=config.kind.removeprefix("sentencepiece_"),
        character_coverage=config.character_coverage,
        normalization_rule_name="nmt_nfkc_cf" if config.lowercase else "nmt_nfkc",
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        control_symbols=[
            "<mask>",
            *config.special_tokens,
        ],  # never made of text, as a user-defined symbol would be
        num_threads=os.cpu_count() or 1,
        minloglevel=2,
    )
    return model.getvalue()


_TRAINERS: dict[str, Callable[[TokenizerTrainConfig, Texts], Tokenizer]] = {
    "wordpiece": _train_wordpiece,
    "byte_bpe": _train_byte_bpe,
    "sentencepiece_bpe": _train_sentencepiece,
    "sentencepiece_unigram": _train_sentencepiece,
}


def _from_library(config: TokenizerTrainConfig, library: Any, roles: dict[str, str]) -> Tokenizer:
    from jaxssl.data.tokenizer.loading import JsonTokenizer

    named = {f"{role}_token": token for role, token in roles.items()}
    learnt = JsonTokenizer(Path(config.out).name, json.loads(library.to_str()), named)
    return with_special(learnt, sentinels(config.sentinels))


def _alphabets(
    config: TokenizerTrainConfig, texts: Texts, normalizer: Any
) -> tuple[list[str], list[str]]:
    """The most frequent characters at the start of words, and within them, sorted."""
    starting: Counter[str] = Counter()
    continuing: Counter[str] = Counter()
    spaced = _SpacedOut()
    for piece in _pieces(texts()):
        words = normalizer.normalize_str(piece).translate(spaced)
        starting.update(re.findall(r"(?<!\S)\S", words))
        continuing.update(re.sub(r"(?<!\S)\S", "", words))
    return _most_frequent(config, starting), _most_frequent(config, continuing)


def _most_frequent(config: TokenizerTrainConfig, counts: Counter[str]) -> list[str]:
    """The characters to know, sorted: rare ones are left out only while the others cover enough.

    In a short text every character is rare, and without it its words would be unknown.
    """
    known = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    may_lose = (1 - config.character_coverage) * sum(counts[c] for c in known)
    while known and counts[known[-1]] < config.min_frequency and counts[known[-1]] <= may_lose:
        may_lose -= counts[known.pop()]
    return sorted(known[: min(ALPHABET, config.room // 4)])


class _SpacedOut(dict):
    """A table for `str.translate` that puts spaces around what BERT makes a word of its own."""

    def __missing__(self, code: int) -> str:
        self[code] = chr(code) if _may_continue(chr(code)) else f" {chr(code)} "
        return self[code]


def _merged(learner: Any) -> list[str]:
    """Pieces that merges made, in the order in which they were learnt."""
    merges = json.loads(learner.to_str())["model"]["merges"]
    return ["".join(pair) for pair in merges]


def _wordpiece_vocabulary(first: list[str], merged: list[str], size: int) -> dict[str, int]:
    """Special tokens, characters as word starts and continuations, then merged pieces."""
    learnt = (
        piece.removeprefix(_WORD_MARK) if piece.startswith(_WORD_MARK) else f"##{piece}"
        for piece in merged
    )
    pieces = itertools.chain(first, learnt)
    unique = dict.fromkeys(piece for piece in pieces if piece)
    return {piece: id_ for id_, piece in enumerate(itertools.islice(unique, size))}


def _may_continue(character: str) -> bool:
    """False for what BERT makes a word of its own: punctuation and ideographs."""
    from tokenizers import normalizers, pre_tokenizers

    word = normalizers.BertNormalizer(lowercase=False).normalize_str(f"a{character}")
    return len(pre_tokenizers.BertPreTokenizer().pre_tokenize_str(word)) == 1


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """Texts cut so that none is large."""
    for text in texts:
        yield from split_long(text, 1 << 20)


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Lines under SentencePiece's limit of 4,192 bytes, beyond which it would skip them."""
    for text in texts:
        for line in text.splitlines():
            if line and not line.isspace():
                yield from split_long(line, 1000)


def _sentencepiece_error(config: TokenizerTrainConfig, message: str) -> UserError:
    return UserError(
        "SentencePiece cannot learn this vocabulary from this text",
        where="vocab_size",
        expected="a vocabulary that the text supports",
        got=f"{config.vocab_size} ({message.strip().splitlines()[-1][:200]})",
        fix="use a smaller vocab_size or more text",
    )

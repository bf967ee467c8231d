"""Entities as runs of tags: decoding, conversion between schemes, and entity-level scores.

A tag is `O` or a prefix and a type, `B-PER`; where there is one type alone, the prefix may stand
by itself (`B`), and the type is then "". The schemes (Ramshaw & Marcus 1995; Tjong Kim Sang &
Veenstra 1999) differ in what begins an entity:

  IOB1   I; B where the entity before it is of the same type and ends right there
  IOB2   B; I goes on (also called BIO)
  BIOES  B begins, I goes on, E ends, S is an entity of one tag (IOBES; BILOU with other letters)
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from jaxssl.core.errors import UserError
from jaxssl.scores.counts import check_pairs, precision_recall_f1

Scheme = Literal["IOB1", "IOB2", "BIOES"]
Entity = tuple[str, int, int]

PREFIXES = {"IOB1": ("I", "B"), "IOB2": ("B", "I"), "BIOES": ("B", "I", "E", "S")}
OUTSIDE = "O", ""


def entities(tags: Sequence[str], scheme: Scheme, lenient: bool) -> list[Entity]:
    """The entities of one sentence, in order: (type, start, end), tags start to end - 1.

    Args:
      tags: one tag a word.
      scheme: how the tags are meant.
      lenient: what becomes of tags that are not legal in the scheme. True reads them as
        conlleval and seqeval's default do: B and S begin an entity, E and S end one, and so does a
        change of type; what goes on from nowhere (I after O in IOB2) begins an entity. False
        reads the same entities and leaves out each whose own tags are not legal where they stand
        (in BIOES one without its E, say). That is seqeval's strict mode in IOB2 and BIOES; in
        IOB1 seqeval differs near a B that is out of place, of which it may keep what follows.

    Raises:
      UserError: a tag does not belong to the scheme.
    """
    return [entity for entity, legal in decode(tags, scheme) if lenient or legal]


def convert(
    tags: Sequence[str], source: Scheme, target: Scheme, *, lenient: bool = False
) -> list[str]:
    """The tags of one sentence in another scheme.

    Args:
      tags: one tag a word, in `source`.
      source: the scheme of the tags.
      target: the scheme of the result.
      lenient: reads illegal tags as `entities` does, where otherwise they are refused.

    Raises:
      UserError: the tags are not legal in `source` (perhaps they are in another scheme).
    """
    found = decode(tags, source)
    for (_, start, end), legal in found:
        if not (legal or lenient):
            raise UserError(
                f"the tags are not legal {source}",
                where=f"tag {start}",
                expected=f"an entity in {source}",
                got=" ".join(tags[max(start - 1, 0) : end + 1]),
                fix="name the scheme they are in, or convert with lenient=True",
            )
    return tags_of([entity for entity, _ in found], len(tags), target)


def entity_scores(
    predicted: Sequence[Sequence[str]],
    reference: Sequence[Sequence[str]],
    scheme: Scheme,
    mode: Literal["conlleval", "strict"] = "conlleval",
) -> dict[str, Any]:
    """Micro precision, recall and F1 of entities: right where type, start and end all are.

    Args:
      predicted: the tags of each sentence.
      reference: the tags of each sentence, as many in each.
      scheme: the scheme of both.
      mode: "conlleval" reads illegal tags leniently, as the CoNLL-2000 shared task's conlleval and
        seqeval's default do; "strict" leaves illegal entities out, on both sides (see `entities`).

    Returns:
      `precision`, `recall`, `f1`, as fractions, 0 where the denominator is; `accuracy`, the share
      of the tags that are equal (nan if no sentence has a word); the counts `correct`,
      `predicted`, `reference`, and `illegal_predicted`, `illegal_reference`, how many entities are
      not legal (and so left out in strict mode, counted in the other); and `types`:
      {type: {precision, recall, f1, support}} of the types that occur.

    Raises:
      UserError: sentences or words do not pair up, there are no sentences, a tag does not belong
        to the scheme, or the mode is none of these.
    """
    if mode not in ("conlleval", "strict"):
        raise UserError("no such mode", where="mode", expected="conlleval or strict", got=mode)
    check_pairs(predicted, reference, "sentences")
    check_lengths(predicted, reference)
    guessed, illegal_guessed = gather(predicted, scheme, mode)
    gold, illegal_gold = gather(reference, scheme, mode)
    words = sum(map(len, reference))
    equal = sum(p == r for ps, rs in zip(predicted, reference) for p, r in zip(ps, rs))
    return {
        **summary(guessed, gold),
        "accuracy": equal / words if words else float("nan"),
        "correct": len(guessed & gold),
        "predicted": len(guessed),
        "reference": len(gold),
        "illegal_predicted": illegal_guessed,
        "illegal_reference": illegal_gold,
        "types": by_type(guessed, gold),
    }


def tags_of(spans: Iterable[Entity], length: int, scheme: Scheme) -> list[str]:
    """The tags [length] of a sentence's entities, the inverse of `entities`.

    Raises:
      UserError: an entity is empty, reaches outside the sentence, or overlaps another.
    """
    check_scheme(scheme)
    tags, last_type, last_end = ["O"] * length, "", 0
    for kind, start, end in sorted(spans, key=lambda entity: entity[1:]):
        if not last_end <= start < end <= length:
            raise UserError(
                "an entity overlaps the one before it, is empty, or leaves the sentence",
                where=f"entity {kind!r}",
                expected=f"{last_end} <= start < end <= {length}",
                got=f"start {start}, end {end}",
            )
        touches = start == last_end > 0 and kind == last_type
        for index, prefix in enumerate(prefixes(end - start, scheme, touches), start):
            tags[index] = f"{prefix}-{kind}" if kind else prefix
        last_type, last_end = kind, end
    return tags


def prefixes(length: int, scheme: Scheme, touches: bool) -> list[str]:
    """The prefixes of an entity; `touches` says that one of its type ends right before it."""
    if scheme == "BIOES" and length == 1:
        return ["S"]
    first = "I" if scheme == "IOB1" and not touches else "B"
    last = "E" if scheme == "BIOES" else "I"
    return [first] + ["I"] * (length - 2) + [last] * (length > 1)


def decode(tags: Sequence[str], scheme: Scheme) -> list[tuple[Entity, bool]]:
    """The entities that a lenient reading finds, each with whether its tags are legal."""
    check_scheme(scheme)
    known = {tag: parse(tag, scheme) for tag in set(tags)}
    found, start = [], None
    before = last = OUTSIDE  # of the entity's first tag, and of the tag at hand, the tag before
    for index, now in enumerate([*map(known.__getitem__, tags), OUTSIDE]):
        begins = now[0] in ("B", "S") or last[0] in ("O", "E", "S") or now[1] != last[1]
        if start is not None and (now == OUTSIDE or begins):
            shape = [known[tag][0] for tag in tags[start:index]]
            touches = before[0] != "O" and before[1] == last[1]
            legal = is_legal(shape, scheme, touches)
            found.append(((last[1], start, index), legal))
            start = None
        if now != OUTSIDE and start is None:
            start, before = index, last
        last = now
    return found


def is_legal(shape: list[str], scheme: Scheme, touches: bool) -> bool:
    """Whether an entity's prefixes are those that the scheme has for it.

    In IOB1 a B may stand where the word before is of the same type, and an I anywhere.
    """
    if scheme == "IOB1":
        return shape[0] == "I" or touches
    return shape == prefixes(len(shape), scheme, touches)


def parse(tag: str, scheme: Scheme) -> tuple[str, str]:
    """(prefix, type) of a tag; the type is what follows the first hyphen.

    Raises:
      UserError: the tag does not belong to the scheme.
    """
    if tag == "O":
        return OUTSIDE
    prefix, hyphen, kind = tag.partition("-")
    if prefix not in PREFIXES[scheme] or bool(hyphen) != bool(kind):
        raise UserError(
            f"a tag does not belong to {scheme}",
            where="tags",
            expected="O, or one of " + ", ".join(f"{p}-TYPE" for p in PREFIXES[scheme]),
            got=repr(tag),
            fix="name the scheme that the tags are in",
        )
    return prefix, kind


def check_scheme(scheme: str) -> None:
    """Refuses an unknown scheme with a UserError."""
    if scheme not in PREFIXES:
        raise UserError("no such scheme", where="scheme", expected=", ".join(PREFIXES), got=scheme)


def check_lengths(predicted: Sequence[Sequence[str]], reference: Sequence[Sequence[str]]) -> None:
    """Refuses sentences that are strings, or whose tags do not pair up, with a UserError."""
    for index, (guessed, gold) in enumerate(zip(predicted, reference)):
        if isinstance(guessed, str) or isinstance(gold, str):
            raise UserError(
                "a sentence is not a list of tags",
                where=f"sentence {index}",
                expected="lists of tags, one list a sentence",
                got=repr(guessed if isinstance(guessed, str) else gold),
            )
        if len(guessed) != len(gold):
            raise UserError(
                "a sentence has not as many predicted tags as words",
                where=f"sentence {index}",
                expected=f"{len(gold)} tags",
                got=len(guessed),
                fix="predict O for the words that the model did not see",
            )


def gather(
    sentences: Sequence[Sequence[str]], scheme: Scheme, mode: str
) -> tuple[set[tuple[int, Entity]], int]:
    """({(sentence, entity)} that count, how many are illegal)."""
    kept, illegal = set(), 0
    for index, tags in enumerate(sentences):
        for entity, legal in decode(tags, scheme):
            illegal += not legal
            if legal or mode == "conlleval":
                kept.add((index, entity))
    return kept, illegal


def summary(guessed: set, gold: set) -> dict[str, float]:
    """Precision, recall and F1 of two sets."""
    values = precision_recall_f1(len(guessed & gold), len(guessed), len(gold))
    return dict(zip(("precision", "recall", "f1"), values))


def by_type(guessed: set, gold: set) -> dict[str, dict[str, float]]:
    """{type: {precision, recall, f1, support}}, sorted by type."""
    right, predicted, reference = (
        Counter(kind for _, (kind, _, _) in found) for found in (guessed & gold, guessed, gold)
    )
    rows = {}
    for kind in sorted({*predicted, *reference}):
        values = precision_recall_f1(right[kind], predicted[kind], reference[kind])
        rows[kind] = dict(zip(("precision", "recall", "f1"), values))
        rows[kind]["support"] = reference[kind]
    return rows

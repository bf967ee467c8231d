"""The pages of `--help TOPIC`: fields with type, default and what they are. What several choices
inherit is described once."""

import difflib
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from jaxssl.core.config.documentation import choice_docs
from jaxssl.core.config.settings import Choice, Setting, find, homes, settings_of, topics
from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.registry import choice_name

WIDTH = 100
"""Columns of a page."""
Homes = Mapping[tuple[type, ...], str]
Parts = tuple[list[str], list[str]]


def document(
    cls: type, defaults: Mapping[str, Any] | None = None, topic: str | None = None
) -> Iterator[str]:
    """Lines that document the fields of `cls` below a topic: `model`, `model.bert`,
    `optimizer.learning_rate`; without one, every field.

    Args:
      defaults: a layer below all others, whose values are the defaults where it has any.

    Raises:
      UserError: there is no such topic.
    """
    settings = settings_of(cls, defaults or {})
    if topic is None:
        yield from _everything(settings, homes(settings))
        return
    found = find(settings, _words(topic))
    if not found:
        raise _unknown(topic, settings)
    leaves = all(isinstance(each, Setting) and not each.choices for each in found)
    known = {} if leaves else homes(settings)
    yield from _distinct([(each, list(_page(each, known))) for each in found])


def _words(topic: str) -> tuple[str, ...]:
    """`model.name=bert`, as pages have it, is `model.bert`."""
    return tuple(topic.replace(".name=", ".").strip(".").split("."))


def _everything(settings: list[Setting], known: Homes) -> Iterator[str]:
    """The pages of all settings, and after each those of what it refers to."""
    for setting in settings:
        if setting.choices and known[setting.choices] != setting.topic:
            yield from _fields([setting], known, "")
            yield ""
            continue
        yield from _page(setting, known)
        inside = [topic for topic in known.values() if topic.startswith(f"{setting.topic}.")]
        for topic in inside:
            for found in find(settings, tuple(topic.split(".")))[:1]:
                if isinstance(found, Setting) and found.is_chosen:
                    yield ""
                    yield from _page(found, known)
        yield ""


def _distinct(pages: list[tuple[Setting | Choice, list[str]]]) -> Iterator[str]:
    """Each page once, under the choices that it is of, if they are not all the same."""
    owners: dict[tuple[str, ...], list[str]] = {}
    for each, lines in pages:
        owners.setdefault(tuple(lines), []).append(".".join(each.within))
    for number, (lines, names) in enumerate(owners.items()):
        yield from [""] * (number > 0)
        if len(owners) > 1:
            yield from _wrapped(f"--- {', '.join(names)}", "")
        yield from lines


def _unknown(topic: str, settings: list[Setting]) -> UserError:
    known = topics(settings)
    sections = ", ".join(setting.key for setting in settings)
    return UserError(
        "there is no help on this",
        where=f"--help {topic}",
        expected=f"one of {sections}, all, or what is below one of these, with a dot between",
        got=topic,
        fix=_nearest(topic, known) or "--help alone lists what there is",
    )


def _nearest(topic: str, known: list[str]) -> str | None:
    """Topics that end as the one that was asked for (bert: model.bert), else one spelt alike, else
    one whose end is (learning_rat)."""
    ends: dict[str, list[str]] = {}
    for name in known:
        ends.setdefault(name.rpartition(".")[2], []).append(name)
    end = topic.rpartition(".")[2]
    if end not in ends:
        near = did_you_mean(topic, ["all", *known])
        close = difflib.get_close_matches(end, ends, n=1, cutoff=0.6)
        if near is not None or not close:
            return near
        end = close[0]
    return f"did you mean {' or '.join(map(repr, ends[end][:3]))}?"


def _page(found: Setting | Choice, known: Homes) -> Iterator[str]:
    """What is said of a setting or of one of its choices."""
    if isinstance(found, Choice):
        yield from _heading(found)
        yield from _fields(found.setting.below(found.cls), known, "  ")
        return
    yield from _line(found, "", found.topic)
    yield from _wrapped(found.doc, "    ")
    if found.is_chosen:
        yield from _choices(found, known)
    else:
        for choice in found.choices:
            yield from _fields(found.below(choice), known, "  ")


def _choices(setting: Setting, known: Homes) -> Iterator[str]:
    """What several choices have alike, then what each has besides or otherwise."""
    below = {choice: setting.below(choice) for choice in setting.choices}
    bases = _shared_bases(setting.choices)
    described: dict[type, dict[str, Parts]] = {}
    for cls in (*bases, *setting.choices):
        own = below.get(cls) or [x for x in settings_of(cls, {}, setting.path) if x.key != "name"]
        texts = {each.key: _parts(each, known) for each in own}
        above = [base for base in cls.__mro__[1:] if base in described]
        new = [_changed(parts, _inherited(key, above, described)) for key, parts in texts.items()]
        described[cls] = texts
        if cls in below:
            yield ""
            ancestors = [str(choice_name(base)) for base in above if base in below]
            yield from _heading(Choice(setting, cls), ancestors[:1])
        elif any(new):
            heirs = [str(choice_name(x)) for x in setting.choices if issubclass(x, cls)]
            yield ""
            yield from _wrapped(f"--- {_every(setting, heirs)}", "")
        yield from (line for lines in new for line in lines)


def _inherited(key: str, above: list[type], described: Mapping) -> Parts | None:
    """What was said of a field of the nearest base that has it."""
    return next((described[base][key] for base in above if key in described[base]), None)


def _changed(parts: Parts, before: Parts | None) -> list[str]:
    """The lines of a field that are new: none, its type and default, or all of them."""
    if parts == before:
        return []
    (head, rest), same = parts, before is not None and parts[1] == before[1]
    return head if same else [*head, *rest]


def _shared_bases(choices: tuple[type, ...]) -> list[type]:
    """The dataclasses that several choices inherit from and that are none, the most general
    first."""
    found = [
        base
        for choice in choices
        for base in choice.__mro__[1:]
        if is_dataclass(base) and base not in choices and fields(base)
    ]
    shared = dict.fromkeys(base for base in found if found.count(base) > 1)
    return sorted(shared, key=lambda base: sum(is_dataclass(cls) for cls in base.__mro__))


def _every(setting: Setting, heirs: list[str]) -> str:
    if len(heirs) == len(setting.choices):
        return f"every kind of {setting.key}:"
    return f"each of {', '.join(heirs)}:"


def _heading(choice: Choice, ancestors: list[str] | None = None) -> Iterator[str]:
    """The line above the fields of a choice, and what it is."""
    more = "".join(f", as {name}, and:" for name in ancestors or [])
    yield f"--- {choice.setting.topic}.name={choice.name}{more}"
    yield from _wrapped(choice_docs(choice.setting.choices)[choice.cls], "    ")


def _fields(settings: list[Setting], known: Homes, pad: str) -> Iterator[str]:
    for setting in settings:
        yield from _line(setting, pad)
        yield from _below(setting, known, pad)


def _parts(setting: Setting, known: Homes) -> Parts:
    """The two parts of a field's lines: type and default; what it is and what is below it."""
    return _line(setting, "  "), list(_below(setting, known, "  "))


def _line(setting: Setting, pad: str, name: str | None = None) -> list[str]:
    return textwrap.wrap(
        f"{name or setting.key}:{_head(setting)}",
        WIDTH,
        initial_indent=pad,
        subsequent_indent=f"{pad}    ",
        break_on_hyphens=False,
    )


def _below(setting: Setting, known: Homes, pad: str) -> Iterator[str]:
    """What a field is, and the fields of a mapping or where they are described."""
    yield from _wrapped(setting.doc, f"{pad}    ")
    if not setting.choices:
        return
    home = known[setting.choices]
    if setting.is_chosen or home != setting.topic:
        yield f"{pad}    (see --help {home})"
    else:
        for choice in setting.choices:
            yield from _fields(setting.below(choice), known, f"{pad}  ")


def _head(setting: Setting) -> str:
    default, kind = setting.default_text, setting.type_text
    text = f" {kind}" if kind and not kind.startswith(" ") else kind
    if default == "(required)":
        return f"{text}  (required)"
    return f"{text} = {default}" if default else text


def _wrapped(text: str, pad: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH - 2, initial_indent=pad, subsequent_indent=pad, break_on_hyphens=False
    )

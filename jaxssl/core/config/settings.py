"""The fields of a configuration as a tree, each with its place in a file, its default and what is
said of it; the topics that `--help` knows."""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from jaxssl.core.config.documentation import field_docs, names_of
from jaxssl.core.config.fields import key_of, members_of, type_name
from jaxssl.core.config.printing import to_dict
from jaxssl.core.registry import choice_name, members


@dataclass(frozen=True)
class Setting:
    """A field of a configuration.

    Args:
      owner: the dataclass whose field it is.
      annotation: its type.
      path: its keys from the top of a file. Those of a list's places, and names that a user gives,
        are left out: streams.weight.
      given: its value in a layer below all others, or `dataclasses.MISSING`.
      within: the names of the choices on the way, for a field that other choices do not have.
    """

    owner: type
    field: dataclasses.Field
    annotation: Any
    path: tuple[str, ...]
    given: Any = dataclasses.MISSING
    within: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.path[-1]

    @property
    def topic(self) -> str:
        """What `--help` calls it."""
        return ".".join(self.path)

    @property
    def doc(self) -> str:
        """What is said of it, in one line."""
        return field_docs(self.owner).get(self.field.name, "")

    @functools.cached_property
    def item(self) -> Any:
        """What it holds, or what each place of its list or mapping holds."""
        return _item(self.annotation)[0]

    @property
    def several(self) -> str:
        """A word for how it holds several; none if it holds one."""
        return _item(self.annotation)[1]

    @functools.cached_property
    def choices(self) -> tuple[type, ...]:
        """The dataclasses that it may be; none of a leaf."""
        kinds = members_of(self.item)
        return tuple(typing.cast(type, kind) for kind in kinds if is_dataclass(kind))

    @property
    def is_chosen(self) -> bool:
        """Whether a `name` tells what it is."""
        parts = typing.get_args(self.item) or (self.item,)
        return len(self.choices) > 1 or any(map(members, parts))

    @property
    def likeliest(self) -> list[type]:
        """Its choices, that of its default first."""
        return sorted(self.choices, key=lambda choice: choice_name(choice) != self.default_text)

    def below(self, choice: type) -> list["Setting"]:
        """The fields of one of its choices, without the name that tells which it is."""
        given = {} if self.several or not isinstance(self.given, Mapping) else self.given
        is_given = given.get("name", choice_name(choice)) == choice_name(choice)
        name = choice_name(choice) if self.is_chosen else None
        within = (*self.within, name) if name else self.within
        found = settings_of(choice, given if is_given else {}, self.path, within)
        return [each for each in found if name is None or each.field.name != "name"]

    @property
    def type_text(self) -> str:
        """What it may be, as a user would write it; nothing of a mapping that is always there."""
        if not self.choices:
            return type_name(self.item)
        others = [kind for kind in members_of(self.item) if kind not in self.choices]
        words = [type_name(kind) for kind in others if kind is not types.NoneType]
        words += names_of(self.choices) if self.is_chosen else []
        words += ["{...}"] if words and not self.is_chosen else []
        if types.NoneType in others:
            words = [*words, "null"] if words else ["(or null)"]
        return " | ".join(words) + self.several

    @property
    def default_text(self) -> str:
        """Its value when it is not given, as JSON; "(required)"; nothing of a mapping, whose fields
        say theirs."""
        value = self.field.default if self.given is dataclasses.MISSING else self.given
        if value is dataclasses.MISSING and self.field.default_factory is not dataclasses.MISSING:
            value = self.field.default_factory()
        if value is dataclasses.MISSING:
            return "(required)"
        if not self.choices or value is None or self.several:
            return json.dumps(to_dict(value), default=str)
        if isinstance(value, Mapping):
            return str(value.get("name", "")) if self.is_chosen else ""
        if is_dataclass(value):
            return (choice_name(type(value)) or "") if self.is_chosen else ""
        return json.dumps(value)


@dataclass(frozen=True)
class Choice:
    """One of the dataclasses that a setting may be."""

    setting: Setting
    cls: type

    @property
    def name(self) -> str:
        return str(choice_name(self.cls))

    @property
    def topic(self) -> str:
        """What `--help` calls it."""
        return f"{self.setting.topic}.{self.name}"

    @property
    def within(self) -> tuple[str, ...]:
        return self.setting.within


def settings_of(
    cls: type,
    defaults: Mapping[str, Any],
    path: tuple[str, ...] = (),
    within: tuple[str, ...] = (),
) -> list[Setting]:
    """The fields of a dataclass, in their order.

    Args:
      defaults: a layer below all others, whose values are the defaults where it has any.
    """
    hints = _hints(cls)
    return [
        Setting(
            owner=cls,
            field=field,
            annotation=hints[field.name],
            path=(*path, key_of(field)),
            given=defaults.get(key_of(field), dataclasses.MISSING),
            within=within,
        )
        for field in dataclasses.fields(cls)
    ]


def walk(settings: list[Setting], seen: set | None = None) -> Iterator[Setting]:
    """Settings and all below them; below those of one kind (an objective, a term's objective) only
    of the first."""
    seen = set() if seen is None else seen
    for setting in settings:
        yield setting
        if setting.choices and setting.choices not in seen:
            seen.add(setting.choices)
            for choice in setting.choices:
                yield from walk(setting.below(choice), seen)


def homes(settings: list[Setting]) -> dict[tuple[type, ...], str]:
    """The topic that describes the dataclasses that a setting may be: the first that does."""
    found: dict[tuple[type, ...], str] = {}
    for setting in walk(settings):
        if setting.choices:
            found.setdefault(setting.choices, setting.topic)
        if setting.is_chosen:
            for choice in setting.choices:
                found.setdefault((choice,), f"{setting.topic}.{choice_name(choice)}")
    return found


def topics(settings: list[Setting]) -> list[str]:
    """What `--help` knows by a name, each once, in order, under the first path that leads to it."""
    known, found = homes(settings), []
    for setting in walk(settings):
        found.append(setting.topic)
        if setting.is_chosen and known[setting.choices] == setting.topic:
            found += [f"{setting.topic}.{name}" for name in names_of(setting.choices)]
    return list(dict.fromkeys(found))


def find(settings: list[Setting], words: tuple[str, ...]) -> list[Setting | Choice]:
    """What a topic names: a setting, one of its choices, or fields of one name of several."""
    head, rest = words[0], words[1:]
    named = [setting for setting in settings if setting.key == head]
    return [x for setting in named for x in (_find_below(setting, rest) if rest else [setting])]


def _find_below(setting: Setting, words: tuple[str, ...]) -> list[Setting | Choice]:
    if setting.is_chosen:
        if words == ("name",):
            return [setting]
        for choice in setting.choices:
            if choice_name(choice) != words[0]:
                continue
            rest = words[1:]
            below: list[Setting | Choice] = [Choice(setting, choice)]
            found = find(setting.below(choice), rest) if rest else below
            if found:  # else the word is a field's: data.tables.train
                return found
    return [x for choice in setting.likeliest for x in find(setting.below(choice), words)]


_hints = functools.cache(typing.get_type_hints)


def _item(annotation: Any) -> tuple[Any, str]:
    """What a list or a mapping holds, and a word for which of them it is; else `annotation`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple and any(map(is_dataclass, members_of(arguments[0]))):
        return arguments[0], " (a list)"
    if origin is dict and any(map(is_dataclass, members_of(arguments[1]))):
        return arguments[1], " (by name)"
    return annotation, ""

"""The configuration that a command names: recipes, then changes of them; or its documentation."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from jaxssl.core import config as configuration
from jaxssl.core.errors import UserError, UserErrors
from jaxssl.run.config import RunConfig
from jaxssl.run.recipes import find_recipe, load_config


def load(cls: type, options: argparse.Namespace) -> Any:
    """A configuration of `cls`, or None after printing its documentation."""
    if options.help:
        _document(cls, options)
        return None
    recipes, overrides = _split_layers(options.layers)
    return configuration.load(cls, [find_recipe(recipe) for recipe in recipes], overrides)


def load_run(options: argparse.Namespace, defaults: Mapping[str, Any]) -> Any:
    """The configuration of a run, or None after printing its documentation.

    Args:
      defaults: what the verb begins with.
    """
    if options.help:
        _document(RunConfig, options, defaults, " [--plugin FILE ...]")
        return None
    recipes, overrides = _split_layers(options.layers)
    try:
        return load_config(recipes, overrides, defaults)
    except UserError as error:
        mistakes = error.errors if isinstance(error, UserErrors) else [error]
        if recipes or all(each.what != configuration.MISSING for each in mistakes):
            raise
        raise _no_recipe(options.verb, overrides) from error


def _split_layers(layers: Sequence[str]) -> tuple[list[str], list[str]]:
    """Recipe files and overrides, in the order given."""
    return [x for x in layers if "=" not in x], [x for x in layers if "=" in x]


def _no_recipe(verb: str, overrides: Sequence[str]) -> UserError:
    example = "finetune/sst2" if verb in ("finetune", "baseline") else "pretrain/bert-tiny"
    command = f"jaxssl {verb} {example} {' '.join(overrides)}".rstrip()
    return UserError(
        "no recipe was named",
        where="command line",
        expected="a recipe, then changes of it (a.b=c)",
        got=" ".join(overrides) or "nothing",
        fix=f"name a recipe, such as {example}: {command}",
    )


def _document(
    cls: type,
    options: argparse.Namespace,
    defaults: Mapping[str, Any] | None = None,
    more: str = "",
) -> None:
    print(f"usage: jaxssl {options.verb} recipe.yaml [more.yaml ...] [a.b=c ...]{more}\n")
    print("\n".join(configuration.document(cls, defaults)))

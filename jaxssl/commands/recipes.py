"""The configuration that a command names: recipes, then changes of them; or its documentation."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from jaxssl.commands.help import print_help
from jaxssl.core import config as configuration
from jaxssl.core.errors import UserError, UserErrors
from jaxssl.run.config import RunConfig
from jaxssl.run.recipes import config_layers, find_recipe, load_config


def load(cls: type, options: argparse.Namespace) -> Any:
    """A configuration of `cls`, or None after printing its documentation."""
    recipes, overrides = _split_layers(options.layers)
    paths = [find_recipe(recipe) for recipe in recipes]
    if options.help is not None:
        given = configuration.combine([configuration.read_yaml(path) for path in paths], overrides)
        print_help(options, cls, given)
        return None
    return configuration.load(cls, paths, overrides)


def load_run(options: argparse.Namespace, defaults: Mapping[str, Any]) -> Any:
    """The configuration of a run, or None after printing its documentation.

    Args:
      defaults: what the verb begins with.
    """
    recipes, overrides = _split_layers(options.layers)
    if options.help is not None:
        given = configuration.combine(config_layers(recipes, overrides, defaults))
        print_help(options, RunConfig, given)
        return None
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

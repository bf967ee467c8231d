"""A configuration as plain data, and as text."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxssl.core.config.fields import key_of
from jaxssl.core.config.yaml_text import dump_yaml


def to_dict(config: Any) -> Any:
    """A configuration as plain dicts, lists and scalars."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {key_of(f): to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [to_dict(value) for value in config]
    return config


def to_yaml(config: Any) -> str:
    """A configuration as YAML that `load` reads back to an equal configuration."""
    return dump_yaml(to_dict(config))

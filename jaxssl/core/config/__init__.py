"""Configuration: YAML layers and `a.b=c` overrides in, one validated frozen dataclass out.

A component's configuration is a frozen dataclass beside the component. A field may be a leaf, such
as a number or a text, another dataclass, or one of several told apart by their `name`: a union, or
a base class with those registered under it (`core.registry`). A mapping without a `name` is of the
kind that its field is by default. Every error of a configuration is reported at once.
"""

from jaxssl.core.config.building import build, load
from jaxssl.core.config.documentation import field_docs
from jaxssl.core.config.fields import key_of
from jaxssl.core.config.layers import combine, read_yaml
from jaxssl.core.config.mistakes import MISSING
from jaxssl.core.config.pages import document
from jaxssl.core.config.printing import to_dict, to_yaml
from jaxssl.core.config.yaml_text import parse_yaml

__all__ = [
    "MISSING",
    "build",
    "combine",
    "document",
    "field_docs",
    "key_of",
    "load",
    "parse_yaml",
    "read_yaml",
    "to_dict",
    "to_yaml",
]

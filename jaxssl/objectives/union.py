"""What several objectives ask of one model, taken together: heads and networks, each once."""

import dataclasses
from collections.abc import Iterable, Mapping

from jaxssl.core.errors import UserError
from jaxssl.models.heads import Head
from jaxssl.models.network import Network


def unite_heads(heads: Iterable[Head]) -> tuple[Head, ...]:
    """Heads of several objectives, those that are equal once.

    Raises:
      UserError: two of one name that are not equal.
    """
    found: dict[str, Head] = {}
    for head in heads:
        if found.setdefault(head.name, head) != head:
            raise UserError(
                "two heads of one name are not equal",
                where=head.name,
                expected=found[head.name],
                got=head,
                fix="give one of the two tasks a head of its own: head: NAME",
            )
    return tuple(found.values())


def unite_networks(several: Iterable[Mapping[str, Network]]) -> dict[str, Network]:
    """The networks of several objectives: one that two of them have has the heads of both.

    Raises:
      UserError: two of one name that are not alike.
    """
    found: dict[str, Network] = {}
    for networks in several:
        for name, network in networks.items():
            known = found.setdefault(name, network)
            heads = unite_heads((*known.heads, *network.heads))
            found[name] = dataclasses.replace(network, heads=heads)
            if found[name] != dataclasses.replace(known, heads=heads):
                raise UserError(
                    "two networks of one name are not alike",
                    where=name,
                    expected=known,
                    got=network,
                    fix="give the objectives the same settings of it, or runs of their own",
                )
    return found

"""What must be the same in all processes of a run, compared before anything is computed.

With another seed or learning rate in one of them, they would train on together to a result of
neither; with other intervals they would wait for each other for ever.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax

from jaxssl.checkpoint.bases import by_network
from jaxssl.core import config as configuration
from jaxssl.core.names import flatten, matches
from jaxssl.parallel import partners
from jaxssl.run.config import RunConfig
from jaxssl.run.directory import environment, without_lists

OWN = ("distributed/**", "out", "**/{path,store,from}")
"""Keys that a process may have for itself: what it is, and places. What lies at these places is
compared by its checksums: `check_data_alike`."""
BASE = ("manifest", "tokenizer", "step")
"""What says which base a network starts from, wherever it lies. The names of what is taken of it
follow from these and from the configuration."""
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION")
"""Variables of the environment that change what a program computes."""
MACHINE = ("platform", "cores", "processes", "devices", "xla_flags")
"""What `environment` says of a machine, not of the software."""


def check_alike(config: RunConfig) -> None:
    """Compares configuration, software and number of devices with those of the other processes.

    Raises:
      UserError: in all processes; names the keys that differ.
    """
    if jax.process_count() > 1:
        partners.compare("configuration", facts_of(config))


def facts_of(config: RunConfig) -> dict[str, Any]:
    """What `check_alike` compares, flat."""
    values = flatten(without_lists(configuration.to_dict(config)))
    decisive = {
        path.replace("/", "."): value
        for path, value in values.items()
        if not any(matches(pattern, path) for pattern in OWN)
    }
    versions = {k: v for k, v in environment().items() if k not in MACHINE}
    return {
        **decisive,
        **{f"version of {name}": version for name, version in versions.items()},
        **{f"variable {name}": os.environ.get(name) for name in VARIABLES},
        "devices of a process": jax.local_device_count(),
        "kind of device": jax.local_devices()[0].device_kind,
    }


def check_data_alike(data: str, tokenizer: str, base: Mapping[str, Any]) -> None:
    """Compares what the processes read: data, tokenizer, and what the networks start from.

    Args: as for `data_facts_of`.

    Raises:
      UserError: in all processes; names what differs.
    """
    if jax.process_count() > 1:
        partners.compare("data", data_facts_of(data, tokenizer, base))


def data_facts_of(data: str, tokenizer: str, base: Mapping[str, Any]) -> dict[str, Any]:
    """What `check_data_alike` compares, flat.

    Args:
      data, tokenizer: their checksums.
      base: what the run notes of the checkpoints it starts from, `transfer.start.Start.base`.
    """
    facts = {"data": data, "tokenizer": tokenizer}
    for network, noted in by_network(base).items():
        key = f"networks.{network}.init.from" if network else "init.from"
        facts |= {f"{key}, {name}": noted[name] for name in BASE}
    return facts

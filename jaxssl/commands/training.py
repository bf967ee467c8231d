"""What `jaxssl pretrain` and `jaxssl finetune` do with a configuration: they train, and print the
last validation."""

import sys
from collections.abc import Mapping

from jaxssl.commands import compare
from jaxssl.run import train
from jaxssl.run.config import RunConfig
from jaxssl.train.stopping import EXIT_NOT_FINITE, EXIT_STOPPED, NotFinite


def train_and_print(config: RunConfig) -> int:
    """Trains a run and prints its last validation; the exit code."""
    try:
        outcome = train.train_run(config)
    except NotFinite as error:
        print(f"stopped: {error}", file=sys.stderr)
        return EXIT_NOT_FINITE
    for name, value in without_repeated_loss(outcome.validation).items():
        print(f"validation {name}: {value:.4f}")
    return EXIT_STOPPED if outcome.stopped_by else 0


def train_seeds_and_print(config: RunConfig, seeds: int) -> int:
    """Trains a run with several seeds and prints mean and deviation; the exit code."""
    results = compare.run_seeds(config, seeds)
    if results is None:
        return EXIT_STOPPED
    assert config.labelled is not None
    metric = config.labelled.objective.metric
    print("\n".join(["", *compare.seeds_table(results, metric)]))
    return 0


def without_repeated_loss(values: Mapping[str, float]) -> dict[str, float]:
    """The values without the loss of the only objective, which is `loss` again."""
    parts = [name for name in values if name.startswith("loss/")]
    again = parts if len(parts) == 1 and values[parts[0]] == values.get("loss") else []
    return {name: value for name, value in values.items() if name not in again}

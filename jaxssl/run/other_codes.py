"""What is told where something was trained over a base in other codes than it is used with."""

from collections.abc import Iterable
from pathlib import Path

from jaxssl.checkpoint.init_config import split_checkpoint
from jaxssl.checkpoint.origin import RUN_CONFIG
from jaxssl.core.config import read_yaml
from jaxssl.run.adopted import split_place
from jaxssl.run.config import RunConfig
from jaxssl.run.networks import inits


def started_from_other_codes(config: RunConfig) -> list[str]:
    """Warnings of the runs that networks and adapters of a new run come from."""
    places = [init.run_dir for init in inits(config).values() if init is not None]
    return [*_warnings(config, places), *adapted_over_other_codes(config)]


def adapted_over_other_codes(config: RunConfig) -> list[str]:
    """Warnings of the runs that adapters come from."""
    given = [method.from_ for method in config.peft.values() if method.from_]
    return _warnings(config, [split_checkpoint(split_place(place)[0])[0] for place in given])


def _warnings(config: RunConfig, places: Iterable[Path]) -> list[str]:
    own, lines = config.precision.frozen, []
    for place in dict.fromkeys(places):
        if not (place / RUN_CONFIG).is_file():
            continue  # of Hugging Face or PEFT: no codes
        # Not built: the plugins that the run was trained with need not be here.
        theirs = (read_yaml(place / RUN_CONFIG).get("precision") or {}).get("frozen")
        if theirs is not None and theirs != own:
            held = f"in {own}" if own else "as it is"
            lines.append(
                f"warning: {place} was trained over a base in {theirs}, which is taken {held} here "
                f"(precision.frozen={theirs} takes it so, too; jaxssl merge {place} NEW_RUN makes "
                "a run of what was trained)"
            )
    return lines

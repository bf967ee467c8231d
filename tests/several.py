"""A run, or another command, by several processes on this machine."""

import os
import socket
import subprocess
from collections.abc import Callable

import toy

STEPS = 4


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def arguments(out, words, *overrides: str) -> list:
    recipe = toy.recipe(words, out, "bert")
    recipe |= {"train": {"steps": STEPS}, "evaluation": {"every": 2}, "checkpoint": {"every": 2}}
    recipe["logging"]["every"] = recipe["optimizer"]["schedule"]["warmup"] = 1
    recipe["samples"] = {"prompts": ["the [MASK] sees a dog.", "my sister [MASK] the cat."]}
    return ["pretrain", toy.write_recipe(out.with_suffix(".json"), recipe), *overrides]


def train_in_two(out, words, *overrides: str):
    return [toy.finish(process) for process in start_two(out, words, *overrides)]


def start_two(out, words, *overrides: str) -> list[subprocess.Popen]:
    return start_both(arguments(out, words, *overrides))


def start_both(command: list, own: tuple[tuple[str, ...], ...] = ((), ())) -> list:
    """Two processes of one command; each may have overrides of its own."""
    return _started(2, lambda number, found: toy.start([*command, *own[number], *found]))


def start_in_turn(commands: list[list], count: int, devices: int) -> list[subprocess.Popen]:
    """So many processes with so many devices each, which run several commands in turn."""
    if count == 1:
        return [toy.start_in_turn(commands, devices=devices)]

    def start(number: int, found: list[str]) -> subprocess.Popen:
        each = [[*command, *found] for command in commands]
        return toy.start_in_turn(each, devices=devices)

    return _started(count, start)


def start_verb(command: list, count: int) -> list[subprocess.Popen]:
    """So many processes of a command that takes overrides by `--with`."""
    if count == 1:
        return [toy.start(command)]
    layered = lambda found: [word for layer in found for word in ("--with", layer)]
    return _started(count, lambda number, found: toy.start([*command, *layered(found)]))


def _started(
    count: int, start: Callable[[int, list[str]], subprocess.Popen]
) -> list[subprocess.Popen]:
    """Processes that find each other.

    Args:
      start: of a process's number, and the overrides that tell it of the others.
    """
    shared = [f"distributed.coordinator=127.0.0.1:{free_port()}"]
    shared += [f"distributed.num_processes={count}"]
    os.environ["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
    try:
        return [
            start(number, [*shared, f"distributed.process_id={number}"]) for number in range(count)
        ]
    finally:
        del os.environ["JAX_CPU_COLLECTIVES_IMPLEMENTATION"]

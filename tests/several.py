"""A run by two processes on this machine."""

import os
import socket
import subprocess

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
    address = f"127.0.0.1:{free_port()}"
    os.environ["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
    try:
        return [
            toy.start(
                [
                    *command,
                    *own[number],
                    f"distributed.coordinator={address}",
                    "distributed.num_processes=2",
                    f"distributed.process_id={number}",
                ]
            )
            for number in (0, 1)
        ]
    finally:
        del os.environ["JAX_CPU_COLLECTIVES_IMPLEMENTATION"]

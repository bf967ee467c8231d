"""The trace holds the execution of the steps that it is asked for, and no others."""

import jax
import jax.numpy as jnp
import pytest

from jaxssl.train.profile import ProfileConfig, Profiler


@pytest.fixture
def trace(monkeypatch):
    """What happens, in order: the profiler's calls, and waits for a step's result."""
    happened = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: happened.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: happened.append("stop"))
    monkeypatch.setattr(jax, "block_until_ready", lambda x: happened.append(f"wait for {x}"))
    return happened


def go(profiler, steps):
    state = "the start"
    profiler.begin(steps[0])
    for step in steps:
        profiler.before(step, state)
        state = f"step {step}"
    profiler.close(state)


def test_the_device_is_waited_for_before_the_trace_begins_and_ends(trace, tmp_path):
    said = []
    go(Profiler(ProfileConfig(start=3, stop=5), tmp_path, said.append), range(8))
    assert trace == ["wait for step 2", "start", "wait for step 4", "stop"]
    assert len(said) == 1 and str(tmp_path) in said[0]


def test_a_run_that_ends_within_the_window_traces_its_last_step(trace, tmp_path):
    go(Profiler(ProfileConfig(start=3, stop=50), tmp_path, lambda text: None), range(6))
    assert trace == ["wait for step 2", "start", "wait for step 5", "stop"]


def test_a_window_that_was_missed_is_told(trace, tmp_path):
    said = []
    go(Profiler(ProfileConfig(start=3, stop=5), tmp_path, said.append), range(4, 8))
    assert trace == [] and "behind profile.start=3" in said[0]
    go(Profiler(ProfileConfig(), tmp_path, said.append), range(4, 8))
    assert len(said) == 1


def test_the_real_trace_holds_as_many_executions_as_steps(tmp_path):
    step = jax.jit(lambda x: jnp.sin(x) @ x)
    state = step(jnp.eye(64))
    profiler = Profiler(ProfileConfig(start=3, stop=5), tmp_path, lambda text: None)
    for number in range(8):
        profiler.before(number, state)
        state = step(state)
    profiler.close(state)
    (path,) = tmp_path.rglob("*.xplane.pb")
    events = [
        event.name
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes
        for line in plane.lines
        for event in line.events
    ]
    executions = [name for name in events if "Execute" in name and "Thunk" not in name]
    counts = {name: executions.count(name) for name in executions}
    assert 2 in counts.values(), counts

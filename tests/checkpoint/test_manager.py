"""Checkpoints: bit-exact onto any mesh, damage noticed, the right steps kept."""

import glob
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxssl.checkpoint import manifest, orbax_paths
from jaxssl.checkpoint.manager import CheckpointConfig, CheckpointManager, as_tree, read_arrays
from jaxssl.core.errors import UserError
from jaxssl.models.model import Model
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.build import make_optimizer
from jaxssl.program.phase import Phases
from jaxssl.program.state import State

# Orbax leaves event loops half closed where a restore or a save fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OBJECTIVE = MaskedLm()
MODEL = Model(tiny.bert(), OBJECTIVE.heads)
OPTIMIZER, _ = make_optimizer(AdamW(), 10, 1)
BATCH = tiny.rows([tiny.random_documents([8])])


def abstract_on(mesh) -> State:
    """The shapes and shardings of the state of a run over the mesh."""
    with jax.set_mesh(mesh):
        program = tiny.program(MODEL, OBJECTIVE, OPTIMIZER, BATCH, over=mesh)
        return Phases(program).at(0).abstract


def state_on(mesh, seed: int = 0) -> State:
    """A state with every array random, moments too, laid out over the mesh."""
    rng = np.random.default_rng(seed)

    def leaf(shape):
        is_count = jnp.issubdtype(shape.dtype, jnp.integer)
        value = rng.integers(1, 100, shape.shape) if is_count else rng.standard_normal(shape.shape)
        return jax.device_put(np.asarray(value, shape.dtype), shape.sharding)

    return jax.tree.map(leaf, abstract_on(mesh))


@pytest.fixture(scope="module")
def state() -> State:
    return state_on(tiny.mesh(data=8))


def bits(tree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def save(directory, state, steps, losses=(), **config) -> CheckpointManager:
    manager = CheckpointManager(directory, CheckpointConfig(**config))
    losses = losses or [None] * len(steps)
    for step, loss in zip(steps, losses, strict=True):
        manager.save(step, as_tree(state), {"selection": loss, "data_offset": 0})
    manager.wait()
    return manager


@pytest.fixture(scope="module")
def two_steps(state, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints")
    save(path, state, [10, 20]).close()
    return path


@pytest.fixture
def steps(two_steps, tmp_path) -> CheckpointManager:
    """Steps 10 and 20, to be spoilt."""
    shutil.copytree(two_steps, tmp_path / "checkpoints")
    return CheckpointManager(tmp_path / "checkpoints")


def data_files(step: Path) -> list[Path]:
    return sorted(path for path in step.rglob("*") if path.is_file())


def array_file(step: Path) -> Path:
    return max((step / "state").rglob("d/*"), key=lambda path: path.stat().st_size)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("sizes", [dict(data=8), dict(fsdp=4, tensor=2), dict(data=2, fsdp=2)])
def test_a_state_comes_back_bit_for_bit_on_any_mesh(sizes, state, two_steps):
    mesh = tiny.mesh(**sizes)
    abstract = abstract_on(mesh)
    got = State(**CheckpointManager(two_steps).restore(20, as_tree(abstract)))
    assert bits(got) == bits(state)
    assert jax.tree.structure(got) == jax.tree.structure(state)
    for leaf, wanted in zip(jax.tree.leaves(got), jax.tree.leaves(abstract), strict=True):
        assert leaf.sharding == wanted.sharding
    assert int(got.step) == int(state.step) > 0


def test_parameters_come_back_alone(state, steps):
    """Even where the optimizer's arrays are of another shape, or of another optimizer."""
    abstract = abstract_on(tiny.mesh(data=8)).params
    part = read_arrays(steps.path(20), {"params": abstract})
    assert list(part) == ["params"]
    assert bits(part["params"]) == bits(state.params)


def test_a_state_of_other_shapes_is_refused(state, steps):
    other = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*x.shape, 2), x.dtype, sharding=x.sharding),
        as_tree(state),
    )
    with pytest.raises(UserError, match="cannot be restored"):
        steps.restore(20, other)


def test_arrays_may_be_donated_as_soon_as_save_returns(state, tmp_path):
    copy = jax.tree.map(jnp.copy, state)
    wanted = bits(copy)
    manager = CheckpointManager(tmp_path)
    manager.save(1, as_tree(copy), {})
    clobber = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    jax.block_until_ready(clobber(copy))
    for leaf in jax.tree.leaves(copy):  # what was not donated since it is still being read
        leaf.delete()
    manager.wait()
    got = manager.restore(1, as_tree(abstract_on(tiny.mesh(data=8))))
    assert bits(State(**got)) == wanted


# --- Damage ---


@pytest.mark.parametrize("position", [0, -1, -1000])
def test_a_flipped_bit_in_array_data_is_caught_and_the_step_before_is_used(position, steps):
    flip(array_file(steps.path(20)), position)
    said = []
    assert steps.newest_intact(said.append) == 10
    assert "checkpoint 20 is damaged" in said[0] and "other contents" in said[0]
    assert "falling back to step 10" in said[-1]


def test_one_flipped_bit_in_any_file_is_caught(steps):
    for path in data_files(steps.path(20)):
        before = path.read_bytes()
        if not before or path.name == "manifest.json":
            continue
        flip(path, len(before) // 2)
        with pytest.raises(UserError):
            manifest.verify(steps.path(20))
        path.write_bytes(before)
    manifest.verify(steps.path(20))


def spoil(kind: str, step: Path) -> None:
    file = array_file(step)
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
    elif kind == "deleted":
        file.unlink()
    elif kind == "meta":
        (step / "meta.json").write_text("{")
    elif kind == "meta is a list":
        (step / "meta.json").write_text("[1]")
    elif kind == "manifest":
        (step / "manifest.json").write_text('{"files": 3}')

    elif kind == "manifest is a directory":
        (step / "manifest.json").unlink()
        (step / "manifest.json").mkdir()
    elif kind == "bytds":
        text = (step / "manifest.json").read_text()
        (step / "manifest.json").write_text(text.replace('"bytes"', '"bytds"', 1))
    elif kind == "format 3":
        text = (step / "meta.json").read_text()
        (step / "meta.json").write_text(text.replace('"format": 1', '"format": 3'))
    else:
        raise AssertionError(kind)


KINDS = [
    *("truncated", "deleted", "meta", "meta is a list", "manifest"),
    *("manifest is a directory", "bytds", "format 3"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_damaged_the_newest_intact_step_is_used(kind, steps):
    spoil(kind, steps.path(20))
    said = []
    assert steps.newest_intact(said.append) == 10
    assert len(said) == 2


def test_nothing_intact_is_an_error_and_nothing_is_moved(steps):
    spoil("truncated", steps.path(20))
    spoil("meta", steps.path(10))
    with pytest.raises(UserError, match="no checkpoint of the run is intact") as raised:
        steps.newest_intact(lambda text: None)
    assert "step 20" in str(raised.value) and "step 10" in str(raised.value)
    assert steps.steps() == [10, 20]


def test_a_newer_format_is_refused_and_not_taken_for_damage(steps, monkeypatch):
    for module in ("jaxssl.checkpoint.manifest", "jaxssl.core.seal"):
        monkeypatch.setattr(f"{module}.FORMAT", 2)
    manifest.seal(steps.path(20), {"step": 20})
    monkeypatch.undo()
    with pytest.raises(UserError, match="newer version of jaxssl"):
        steps.newest_intact(lambda text: None)
    assert steps.steps() == [10, 20]


def test_damaged_steps_do_not_push_intact_ones_out(state, steps):
    """Steps 10 (intact) and 20 (damaged); going on from 10 with keep_last=1 must not leave 20."""
    spoil("truncated", steps.path(20))
    steps.config = CheckpointConfig(keep_last=1)
    assert steps.newest_intact(lambda text: None) == 10
    steps.save(15, as_tree(state), {})
    steps.close()
    assert steps.steps() == [15]
    assert steps.newest_intact(lambda text: None) == 15
    assert (steps.directory / "20.damaged").is_dir()


@pytest.fixture
def chosen(tmp_path) -> CheckpointManager:
    """Steps 10, 20 and 30, of which the first is the best."""
    small = State(jnp.ones([], jnp.int32), {}, {}, jnp.zeros([], jnp.int32))
    manager = save(tmp_path, small, [10, 20, 30], [1.0, 2.0, 3.0], keep_last=3)
    manager.close()
    return manager


@pytest.mark.parametrize("file", ["meta.json", "manifest.json"])
@pytest.mark.parametrize("step", [10, 20])
def test_no_step_is_the_best_beside_one_that_cannot_say_what_it_is_chosen_by(step, file, chosen):
    assert chosen.choose("best") == 10
    path = chosen.path(step) / file
    flip(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match=f"cannot be told, for step {step} is damaged") as raised:
        chosen.choose("best")
    assert str(path) in str(raised.value.where)
    assert "--step 30" in str(raised.value.fix) and str(chosen.path(step)) in str(raised.value.fix)
    assert chosen.choose("last") == chosen.newest_intact() == 30
    shutil.rmtree(chosen.path(step))
    assert chosen.choose("best") == (20 if step == 10 else 10)


def test_a_step_of_a_newer_version_may_be_the_best(chosen, monkeypatch):
    for module in ("jaxssl.checkpoint.manifest", "jaxssl.core.seal"):
        monkeypatch.setattr(f"{module}.FORMAT", 2)
    manifest.seal(chosen.path(10), {"step": 10, "selection": 1.0})
    monkeypatch.undo()
    with pytest.raises(UserError, match="newer version of jaxssl"):
        chosen.choose("best")


@pytest.mark.parametrize("file", ["meta.json", "manifest.json"])
def test_a_step_that_may_be_the_best_is_not_deleted(file, chosen):
    flip(chosen.path(10) / file, 5)
    chosen.config = CheckpointConfig(keep_last=1)
    small = State(jnp.ones([], jnp.int32), {}, {}, jnp.zeros([], jnp.int32))
    chosen.save(40, as_tree(small), {"selection": 4.0})
    chosen.close()
    assert chosen.steps() == [10, 20, 40]  # 20 is the best of those that can be read


def test_step_0_may_be_the_best(tmp_path):
    small = State(jnp.ones([], jnp.int32), {}, {}, jnp.zeros([], jnp.int32))
    manager = save(tmp_path, small, [0, 1], [1.0, 2.0])
    manager.close()
    assert manager.choose("best") == 0


# --- Steps that were never finished ---


def test_a_step_without_a_manifest_is_ignored_and_written_again(state, steps):
    (steps.path(20) / "manifest.json").unlink()
    (steps.path(20) / "state.orbax-checkpoint-tmp").mkdir()
    assert steps.steps() == [10]
    assert steps.newest_intact(lambda text: None) == 10
    steps.save(20, as_tree(state), {})
    steps.close()
    assert steps.newest_intact(lambda text: None) == 20
    assert not (steps.path(20) / "state.orbax-checkpoint-tmp").exists()


def test_what_killed_saves_left_behind_is_cleared_away(state, steps):
    (steps.directory / "13" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    steps.save(30, as_tree(state), {})
    steps.close()
    assert sorted(path.name for path in steps.directory.iterdir()) == ["20", "30"]


# --- What is kept ---


@pytest.mark.parametrize(
    ("config", "losses", "kept"),
    [
        (dict(keep_last=1), None, [5]),
        (dict(keep_last=2), None, [4, 5]),
        (dict(keep_last=1, keep_every=2), None, [2, 4, 5]),
        (dict(keep_last=1), [3.0, 1.0, 2.0, 2.5, 2.4], [2, 5]),
        (dict(keep_last=1), [3.0, None, 2.0, None, None], [3, 5]),
        (dict(keep_last=1), [float("nan"), 2.0, 2.0, float("inf"), None], [2, 5]),
    ],
)
def test_the_newest_the_best_and_every_nth_are_kept(config, losses, kept, tmp_path):
    small = State(jnp.ones([], jnp.int32), {}, {}, jnp.zeros([], jnp.int32))
    manager = save(tmp_path, small, [1, 2, 3, 4, 5], losses or (), **config)
    manager.close()
    assert manager.steps() == kept
    known = [step for step in kept if losses and losses[step - 1] is not None]
    assert manager.best() == (known[0] if known else None)


# --- Paths ---

NAMES = (
    *("bert [lr 2e-3]", "[", "a]b", "*", "a?b", 'it\'s "so" #1 100%'),
    *("gr\u00fc\u00df \u8a9e", "x" * 200),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_restored_from_a_directory_of_any_name(name, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    small = State(jnp.ones([], jnp.int32), {"w": jnp.arange(5.0)}, {}, jnp.zeros([], jnp.int32))
    manager = save(tmp_path / name, small, [1, 2])
    restored = manager.restore(manager.choose("last"), as_tree(small))
    assert bits(restored) == bits(as_tree(small))
    part = read_arrays(manager.path(1), {"params": {"w": small.params["w"]}})
    assert bits(part) == bits(small.params)
    manager.close()


@pytest.mark.parametrize("magic", ["", " [1]"])
def test_a_step_is_restored_from_a_path_that_goes_up_and_through_a_link(magic, tmp_path):
    (tmp_path / "beside").mkdir()
    (tmp_path / f"real{magic}" / "inner").mkdir(parents=True)
    (tmp_path / "beside" / "link").symlink_to(tmp_path / f"real{magic}" / "inner")
    small = State(jnp.ones([], jnp.int32), {"w": jnp.arange(5.0)}, {}, jnp.zeros([], jnp.int32))
    manager = save(tmp_path / "beside" / "link" / ".." / "run", small, [1, 2])
    assert (tmp_path / f"real{magic}" / "run" / "2").is_dir()
    assert bits(manager.restore(2, as_tree(small))) == bits(as_tree(small))
    part = read_arrays(manager.path(1), {"params": {"w": small.params["w"]}})
    assert bits(part) == bits(small.params)
    manager.close()


def test_a_run_with_brackets_in_its_path_has_one_link_which_must_be_its_own(tmp_path, monkeypatch):
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(links))
    step = tmp_path / "[a]" / "checkpoints" / "3"
    state = orbax_paths.state_path(step)
    assert orbax_paths.state_path(step.with_name("4")).parent.parent == state.parent.parent
    (link,) = links.iterdir()
    assert link.readlink() == step.parent and state == link / "3" / "state"
    link.unlink()
    link.symlink_to(tmp_path)
    with pytest.raises(UserError, match="something else at that place"):
        orbax_paths.state_path(step)
    (tmp_path / "[a]").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "[a]"))
    with pytest.raises(UserError, match=r"a path with \["):
        orbax_paths.state_path(step)


@pytest.mark.parametrize("pattern", ["a*", "a?", "a[b]"])
def test_a_path_that_is_a_pattern_does_not_take_in_other_runs(pattern, tmp_path, monkeypatch):
    """What Orbax's own patterns find below the path is this run's."""
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(links))
    for name in (pattern, "ab"):
        (tmp_path / name / "checkpoints" / "1" / "state").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / "1" / "state" / name).touch()
    state = orbax_paths.state_path(tmp_path / pattern / "checkpoints" / "1")
    assert [Path(found).name for found in glob.glob(f"{state}/*")] == [pattern]


def test_a_step_that_restoring_would_not_find_is_not_sealed(tmp_path, monkeypatch):
    """Given such a path as it is, Orbax only warns."""
    monkeypatch.setattr(orbax_paths, "_plain", lambda directory: directory)
    small = State(jnp.ones([], jnp.int32), {"w": jnp.arange(5.0)}, {}, jnp.zeros([], jnp.int32))
    with pytest.raises(UserError, match="step 1 could not be saved") as raised:
        save(tmp_path / "[a]", small, [1])
    assert "0 arrays can be read back of 3 that were written" in str(raised.value)
    assert not (tmp_path / "[a]" / "1").exists()


# --- No space ---


def test_a_full_disk_is_told_and_the_step_before_stays(state, steps, capfd):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))
    try:
        with pytest.raises(UserError, match="step 30 could not be saved") as raised:
            steps.save(30, as_tree(state), {})
            steps.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in str(raised.value) and "goes on from step 20" in str(raised.value)
    assert not steps.path(30).exists()
    assert steps.newest_intact(lambda text: None) == 20
    assert "Traceback" not in capfd.readouterr().err
    steps.save(30, as_tree(state), {})  # with space again
    steps.close()
    assert steps.newest_intact(lambda text: None) == 30


def test_a_failure_in_the_background_is_raised_once_by_the_next_look(state, steps, monkeypatch):
    def no_space(directory, meta):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxssl.checkpoint.manifest.seal", no_space)
    steps.save(30, as_tree(state), {})
    with pytest.raises(UserError, match="No space left on device"):
        steps.wait()
    steps.check()
    assert steps.steps() == [10, 20] and not steps.path(30).exists()
    steps.close()


def test_a_save_that_cannot_start_is_told(state, tmp_path):
    (tmp_path / "file").write_text("in the way")
    manager = CheckpointManager(tmp_path / "file")
    with pytest.raises(UserError, match="step 1 could not be saved"):
        manager.save(1, as_tree(state), {})
    assert (tmp_path / "file").read_text() == "in the way"

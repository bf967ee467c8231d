"""`jaxssl inspect` of a run on a mesh: what each device holds, there or not."""

import re

import jax
import pytest
import toy

from jaxssl import cli
from jaxssl.core.names import flatten
from jaxssl.parallel.rules import use_layout
from jaxssl.program.phase import Phases, born
from jaxssl.run.build import build
from jaxssl.run.train import train_run

TABLE = "embeddings/tokens/embedding"
LAYOUT = f"mesh.parameters={{{TABLE}: {{vocab: [fsdp], embed: []}}}}"
ONE = ("--with", "mesh.preset=null", "--with", "mesh.data=1", "--with", "mesh.tensor=1")
HEADS = ("--with", "mesh.rules={heads: [], kv_heads: [], vocab: []}", "--devices", "4")
SHORT = ("train.steps=2", "evaluation.split=null", "optimizer.schedule.warmup=0")
CASES = {
    "all": ("mesh.preset=fsdp", LAYOUT),
    "top, with averages": (
        *("mesh={data: 2, fsdp: 2, tensor: 2}", "freezing.preset=top", "freezing.top=1"),
        "train.ema=0.9",
    ),
}


@pytest.fixture(scope="module", params=CASES)
def trained(request, byte_store, tmp_path_factory):
    """(the run, what one device holds of parameters, of the optimizer's state, of averages)."""
    out = tmp_path_factory.mktemp("laid") / "run"
    config = toy.configured(byte_store, out, "gpt2", *SHORT, *CASES[request.param])
    train_run(config, lambda text: None)
    program = build(config).work.program
    with use_layout(program.mesh, config.mesh.layout()):
        state = born(Phases(program).at(0))
    held = [
        sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(part))
        for part in ({**flatten(state.params), **flatten(state.kept)}, state.opt_state, state.ema)
    ]
    return out, held


def said(capsys, *arguments):
    code = cli.main(["inspect", *map(str, arguments)])
    done = capsys.readouterr()
    return code, done.out, done.err


def on_each(line):
    return int(re.search(r"bytes, ([\d,]+) on each device", line)[1].replace(",", ""))  # type: ignore


def starting(out, text):
    return next(line for line in out.splitlines() if line.startswith(f"  {text}"))


def test_what_each_device_holds_is_what_lies_there(trained, capsys):
    run, (params, state, averages) = trained
    code, out, _ = said(capsys, run)
    assert code == 0 and "on 8 devices (data=" in starting(out, "parameters: ")
    assert on_each(starting(out, "all parameters")) == params
    counted = on_each(starting(out, "state of adamw"))
    assert 0 <= state - counted <= 8  # a count of the schedule's, or two
    if averages:
        assert on_each(starting(out, "averages")) == averages
    else:
        assert "averages" not in out
    lines = [line for line in out.splitlines() if line.startswith("    ")]
    arrays = [line for line in lines if " on each device" in line]
    assert sum(map(on_each, arrays)) == params
    (table,) = (line for line in arrays if TABLE in line)
    told = "fsdp 8 on axis 0" if "fsdp=8" in out else "tensor 2 on axis 0, fsdp 2 on axis 1"
    assert f"(vocab, embed) {told}: " in table


def test_a_mesh_need_not_be_there(trained, capsys):
    run, (params, *_) = trained
    code, here, _ = said(capsys, run, "--devices", "1", "--with", "mesh.fsdp=1", *ONE)
    assert code == 0 and "on one device" in here and "on each device" not in here
    whole = int(re.search(r"all parameters: ([\d,]+) bytes", here)[1].replace(",", ""))  # type: ignore
    assert whole > params
    code, out, _ = said(capsys, run, "--with", "mesh.fsdp=16", *ONE)
    assert code == 0 and "on 16 devices (data=1, fsdp=16, tensor=1)" in out
    assert "(layers, embed, mlp) fsdp 16 on axis 1: " in out
    assert whole / 16 <= on_each(starting(out, "all parameters")) < whole / 8


def test_what_training_would_refuse_is_told(trained, capsys):
    run, _ = trained
    large = ("--with", "model.max_positions=1048576", "--with", "mesh.fsdp=1")
    code, out, _ = said(capsys, run, *large, *ONE[:-1], "mesh.tensor=4", *HEADS)
    assert code == 0 and "training so is refused: a large array lies whole" in out
    assert "{positions: [tensor]}" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--devices", "0"), "--devices"),
        (("--devices", "9", "--with", "mesh.data=2"), "the mesh does not fit the devices"),
        (("--with", "mesh.parameters={'**/kernels': {mlp: []}}"), "matches no parameter"),
        (("--with", "hardware/eight-device"), "no such recipe"),
    ],
)
def test_mistakes_are_told(trained, arguments, told, capsys):
    code, _, err = said(capsys, trained[0], "--with", "mesh.data=1", *arguments)
    assert code == 2 and told in err, err


def test_what_is_no_run_has_no_mesh(byte_store, capsys):
    code, _, err = said(capsys, byte_store, "--devices", "8")
    assert code == 2 and "a run as a whole is laid out on a mesh" in err

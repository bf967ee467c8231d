"""The price of summing gradients, against what the compiled step sends."""

import math
import re

import jax
import pytest
import tiny

from jaxssl.core.platform import use_platform
from jaxssl.core.precision import Precision
from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.build import make_optimizer
from jaxssl.parallel.mesh import batch_sharding
from jaxssl.parallel.rules import DEFAULT, use_layout
from jaxssl.plan.hlo import read_costs
from jaxssl.program.phase import Phases
from jaxssl.program.reductions import Reductions, reductions
from jaxssl.train.receipt import Cost, Receipt, price_of_sums

OPTIMIZER, _ = make_optimizer(AdamW(), 100, 1)
CAUSAL, MASKED = (CausalLm(chunk=8), tiny.gpt2()), (MaskedLm(chunk=2), tiny.bert(pooler=False))
SUMS = ("all-reduce", "reduce-scatter")


def phase_of(what, sizes, *, reduce="float32", parameters="float32", **how):
    objective, config = what
    precision = Precision(reduce=reduce, parameters=parameters)
    model = Model(config, objective.heads, precision)
    batch = tiny.rows([[d] for d in tiny.random_documents([16] * 16)])
    over = tiny.mesh(*sizes)
    program = tiny.program(model, objective, OPTIMIZER, batch, over=over, **how)
    with use_layout(over, DEFAULT):
        return Phases(program).at(0), batch


def priced(*args, **changes):
    phase, _ = phase_of(*args, **changes)
    with use_layout(phase.program.mesh, DEFAULT):
        return reductions(phase, [""])


def sent(what, sizes, **how):
    """Bytes of all sums of a compiled step, those of activations, too; and its price."""
    phase, batch = phase_of(what, sizes, **how)
    with use_layout(phase.program.mesh, DEFAULT):
        rows = batch_sharding(phase.program.mesh)
        shapes = {
            k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows) for k, x in batch.items()
        }
        lowered = phase.step(("",)).lower(phase.abstract, {"": shapes}, phase.constants)
        wire = read_costs(lowered.compile().as_text() or "").wire
        made = reductions(phase, [""])
    assert made is not None
    return sum(wire.get(kind, 0.0) for kind in SUMS), made


@pytest.mark.parametrize(
    ("what", "sizes", "how"),
    [
        (CAUSAL, (8, 1, 1), {"accumulation": 2}),
        (CAUSAL, (2, 4, 1), {"accumulation": 2, "gathers_once": True}),
        (MASKED, (8, 1, 1), {}),
        (CAUSAL, (2, 4, 1), {}),
    ],
    ids=["causal, 2 microbatches", "causal, 2 once", "masked, data 8", "causal, data 2 x fsdp 4"],
)
def test_the_price_is_what_the_compiled_step_sends(what, sizes, how):
    """To 1%: the step sums the loss and its like, too."""
    there, made = sent(what, sizes, **how)
    assert made.shards == 8 and list(made.sent) == ["float32", "bfloat16"]
    assert made.times == (1 if how.get("gathers_once") else how.get("accumulation", 1))
    assert made.sent["float32"] == pytest.approx(there, rel=0.01)
    assert 0 < made.sent["bfloat16"] < made.sent["float32"]


def test_kernels_and_biases_alone_are_summed_in_another_dtype():
    """Of GPT-2 on 8 replicas, by hand: the table of tokens twice (looked up, and as the head)."""
    made = priced(CAUSAL, (8, 1, 1))
    factors = 2 * (4 * 16 * 16 + 2 * 16 * 32 + 4 * 16 + 32 + 16)
    norms, tables = 2 * 2 * 2 * 16 + 2 * 16, 2 * 40 * 16 + 32 * 16
    wire = 2 * 7 / 8
    assert made is not None
    assert made.sent["float32"] == pytest.approx(wire * 4 * (factors + norms + tables))
    assert made.sent["bfloat16"] == pytest.approx(wire * (2 * factors + 4 * (norms + tables)))


def test_a_run_that_reduces_in_bfloat16_is_told_so_first():
    made = priced(CAUSAL, (1, 8, 1), reduce="bfloat16")
    usual = priced(CAUSAL, (1, 8, 1))
    assert made is not None and usual is not None
    assert list(made.sent) == ["bfloat16", "float32"] and made.sent == usual.sent


def test_a_head_is_summed_in_float32_whatever_parameters_are():
    """All but the head's is halved."""
    made, wide = priced(CAUSAL, (8, 1, 1), parameters="bfloat16"), priced(CAUSAL, (8, 1, 1))
    assert made is not None and wide is not None
    head = 2 * 7 / 8 * 4 * 40 * 16
    assert made.sent["bfloat16"] == pytest.approx(head + (wide.sent["float32"] - head) / 2)


def test_nothing_is_summed_where_no_other_has_a_part():
    assert priced(CAUSAL, (1, 1, 1)) is None and priced(CAUSAL, (1, 1, 2)) is None


def test_tensor_parallelism_leaves_each_device_a_part_to_sum():
    whole, half = priced(CAUSAL, (4, 1, 1)), priced(CAUSAL, (4, 1, 2))
    assert whole is not None and half is not None
    assert half.shards == whole.shards == 4
    assert 0.5 < half.sent["float32"] / whole.sent["float32"] < 0.65  # norms and positions


def test_the_receipt_tells_it():
    own = Cost(10, 80, 0, 1e6, 2048)
    price = Reductions(8, {"bfloat16": 1000.4, "float32": 2000.0})
    (line,) = price_of_sums(Receipt(10, 8, 24, own, own, "8 devices", price))
    assert "over 8 shards of the batch" in line
    assert line.endswith(
        "sends 1,000 bytes a step with precision.reduce=bfloat16, 2,000 with float32"
    )
    assert price_of_sums(Receipt(10, 8, 24, own, own, "a device", None)) == []
    price = Reductions(8, {"float32": 2000.0}, 4)
    (line,) = price_of_sums(Receipt(10, 8, 24, own, own, "8 devices", price))
    assert line.endswith("; at most 1/4 of that with mesh.gather_once=true, where memory allows")


def test_kernels_in_shards_are_summed_in_the_declared_dtype():
    """As the step is written for a TPU: a CPU sums bfloat16 in float32. Tables are summed in their
    own, the head's after its chunks."""
    tables = 2 * 40 * 16 + 32 * 16  # of tokens twice, of positions
    scatter = re.compile(r'"stablehlo.reduce_scatter".*?\}\) : \(tensor<([\dx]+)x(\w+)>\)', re.S)
    for dtype, kind in (("float32", "f32"), ("bfloat16", "bf16")):
        phase, batch = phase_of(CAUSAL, (1, 8, 1), reduce=dtype)
        with use_layout(phase.program.mesh, DEFAULT), use_platform("tpu"):
            lowered = phase.step(("",)).lower(phase.abstract, {"": batch}, phase.constants)
        found = scatter.findall(lowered.as_text())
        sizes = {"f32": tables, "bf16": 0}
        sizes[kind] += 4 * 16 * 16 + 2 * 16 * 32  # of a layer
        for each, size in sizes.items():
            kernels = [shape.split("x") for shape, its in found if its == each]
            assert sum(math.prod(map(int, shape)) for shape in kernels) == size

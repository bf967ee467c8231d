"""What is read of a compiled program, from small texts in the compiler's own form."""

from pathlib import Path

import pytest

from jaxssl.plan.hlo import group_size, num_bytes, parse, read_costs

TEXT = (Path(__file__).parent / "step.hlo").read_text()


def test_a_loop_counts_as_often_as_it_runs():
    costs = read_costs(TEXT)
    assert costs.cycles == 3 * 100 + 7 + 30  # what is fused is in the fusion's own; one branch
    assert costs.messages == {
        **{"all-gather": 3, "all-reduce": 3},
        **{"reduce-scatter": 1, "collective-permute": 1},
    }


def test_bytes_on_the_wire_are_those_of_a_ring():
    wire = read_costs(TEXT).wire
    assert wire["all-gather"] == 3 * (16 * 64 * 2) * 3 / 4  # among 4: the axis 'a'
    assert wire["all-reduce"] == 3 * (2 * 64 * 2) * 2 * 1 / 2  # among 2
    assert wire["reduce-scatter"] == 4 * 8 * 2 * 7  # 7 parts such as the chip's own
    assert wire["collective-permute"] == 4 * 2


def test_pallas_calls_are_counted_by_name_over_lines_of_braces():
    assert read_costs(TEXT).kernels == {"splash_mha_fwd": 3}
    assert [x.name for x in parse(TEXT).computations["body"]][-1] == "all-reduce.1"


def test_shapes_say_their_bytes():
    assert num_bytes("(bf16[2,3]{1,0:T(8,128)(2,1)}, f32[], pred[5], u32[2])") == [12, 4, 5, 8]
    assert num_bytes("s4[6]") == [3]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("replica_groups=mesh['axis_0'=1024,'axis_1'=4] {'axis_1'}", 4),
        ("replica_groups=mesh['axis_0'=8,'axis_1'=4] {'axis_0','axis_1'}", 32),
        ("replica_groups=[4,16]<=[64]", 16),
        ("replica_groups={{0,1,2},{3,4,5}}", 3),
    ],
)
def test_groups_are_said_in_several_ways(text, size):
    assert group_size(text) == size


def test_text_that_is_no_module_or_has_a_loop_without_end_is_refused():
    with pytest.raises(ValueError, match="no computation is the entry"):
        read_costs("something else")
    with pytest.raises(ValueError, match="not one constant"):
        read_costs(TEXT.replace("constant(3)", "parameter(1)"))

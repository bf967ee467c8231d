"""Numbers that move over a run."""

from hypothesis import given
from hypothesis import strategies as st

from jaxssl.core.ramp import Ramp, agree, constant

POINTS = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 3)),
    min_size=0,
    max_size=4,
    unique_by=lambda p: p[0],
)


@given(
    one=POINTS,
    other=POINTS,
    starts=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    until=st.integers(0, 45),
)
def test_two_factors_agree_where_all_their_values_do(one, other, starts, until):
    ramps = [
        Ramp(points=((0, float(start)), *((step, float(x)) for step, x in sorted(points))))
        for start, points in zip(starts, (one, other))
    ]
    same = all(ramps[0].at(step) == ramps[1].at(step) for step in range(until + 1))
    assert agree(*ramps, until) == same


def test_a_number_is_a_line_that_stays():
    assert agree(0.5, Ramp(points=((0, 0.5), (10, 0.5), (20, 1.0))), 10)
    assert not agree(0.5, constant(0.25), 0)

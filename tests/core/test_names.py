"""The pattern language over parameter names."""

import fnmatch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.core.names import assign, flatten, matches, unflatten

QUERY = "encoder/layers/attention/query/kernel"
NAMES = ["embeddings/tokens/embedding", QUERY, "norm/bias", "bias"]


@pytest.mark.parametrize(
    "pattern, name, want",
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/*", "a/b", True),
        ("a/*", "a/b/c", False),
        ("a/*", "a", False),
        ("*/kernel", "query/kernel", True),
        ("*/kernel", "attention/query/kernel", False),
        ("**/bias", "bias", True),
        ("**/bias", "x/y/bias", True),
        ("**/bias", "x/unbias", False),
        ("a/**", "a", True),
        ("a/**", "a/b/c", True),
        ("a/**", "ab", False),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("**", "any/thing", True),
        ("{a,b}/c", "b/c", True),
        ("{a,b}/c", "ab/c", False),
        ("layers[0:2]/*", "layers[0:2]/x", True),
        ("a.b", "axb", False),
        ("no*", "norm", True),
    ],
)
def test_patterns_match_whole_names(pattern, name, want):
    assert matches(pattern, name) == want


@given(st.text("ab*", max_size=5), st.text("ab", max_size=5))
def test_within_one_part_stars_mean_what_a_shell_means(pattern, name):
    if "**" not in pattern:
        assert matches(pattern, name) == fnmatch.fnmatchcase(name, pattern)


def test_the_first_rule_that_matches_wins():
    assert assign([("**/bias", 0), ("encoder/**", 1)], NAMES, 9) == {
        NAMES[0]: 9,
        NAMES[1]: 1,
        "norm/bias": 0,
        "bias": 0,
    }
    assert assign([("encoder/**", 1), ("**/kernel", 2)], NAMES, 9)[NAMES[1]] == 1


def test_a_rule_that_matches_nothing_is_refused_with_a_suggestion():
    with pytest.raises(UserError, match="did you mean 'norm/bias'") as error:
        assign([("norms/bias", 1)], NAMES, 0, where="freeze")
    assert error.value.where == "freeze"
    with pytest.raises(UserError, match="jaxssl inspect"):
        assign([("qqq", 1)], NAMES, 0)


KEYS = st.sampled_from(["a", "b", "layers[0:1]"])
TREES = st.recursive(
    st.integers(), lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3), max_leaves=6
)


@settings(deadline=None)
@given(st.dictionaries(KEYS, TREES, max_size=3))
def test_flatten_and_back(tree):
    assert unflatten(flatten(tree)) == tree

"""The ledger: every parameter, stored or of the model, is in it exactly once, or an error."""

import dataclasses
import json

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.checkpoint.init_config import InitConfig
from jaxssl.checkpoint.ledger import Leaf, make_ledger, table, write_ledger
from jaxssl.core.errors import UserError, UserErrors
from jaxssl.core.names import flatten, matches
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model


def leaves(**shapes):
    """{name: Leaf}; `__` in a keyword stands for `/`."""
    return {k.replace("__", "/"): Leaf(v, "float32") for k, v in shapes.items()}


def ledger(target, source, heads=((), ()), **options):
    config = InitConfig(from_="run", **options)
    return make_ledger(config, target, source, target_heads=heads[0], source_heads=heads[1])


def lines(entries):
    return [(entry.action, entry.target, entry.source) for entry in entries]


def refused(call, match):
    with pytest.raises(UserError, match=match) as error:
        call()
    return error.value


BODY = leaves(embeddings__tokens=(10, 4), encoder__layers__kernel=(3, 4, 4), norm__scale=(4,))


# --- Every action -----------------------------------------------------------------------------


def test_the_same_names_and_shapes_are_restored():
    entries = ledger(BODY, BODY)
    assert lines(entries) == [("restored", name, name) for name in BODY]
    assert not any(entry.detail or entry.is_cast for entry in entries)


def test_heads_start_fresh_or_are_left_behind_unasked():
    target = {**BODY, **leaves(classify__kernel=(4, 2))}
    source = {**BODY, **leaves(masked_lm__bias=(10,), masked_lm__kernel=(4, 4))}
    entries = ledger(target, source, (["classify"], ["masked_lm"]))
    assert lines(entries)[len(BODY) :] == [
        ("fresh", "classify/kernel", None),
        ("dropped", None, "masked_lm/bias"),
        ("dropped", None, "masked_lm/kernel"),
    ]
    entries = ledger(target, target, (["classify"], ["classify"]))
    assert lines(entries)[-1] == ("restored", "classify/kernel", "classify/kernel")


def test_half_a_head_is_not_started_afresh_in_silence():
    target = {**BODY, **leaves(classify__kernel=(4, 2), classify__transform=(4, 4))}
    source = {**BODY, **leaves(classify__kernel=(4, 2))}
    error = refused(lambda: ledger(target, source, (["classify"], ["classify"])), "no stored")
    assert error.where == "classify/transform"


def test_what_is_to_be_fresh_replaces_what_is_stored():
    entries = ledger(BODY, BODY, fresh=("norm/**",))
    assert lines(entries) == [
        ("restored", "embeddings/tokens", "embeddings/tokens"),
        ("restored", "encoder/layers/kernel", "encoder/layers/kernel"),
        ("fresh", "norm/scale", None),
        ("dropped", None, "norm/scale"),
    ]


def test_names_are_rewritten_and_wildcards_carry_over():
    source = leaves(bert__tokens=(10, 4), bert__a__layers__kernel=(3, 4, 4), ln__scale=(4,))
    source = {**source, **leaves(lm__x__kernel=(4,))}
    target = {**BODY, **leaves(lm__y__kernel=(4,))}
    renames = {
        "bert/tokens": "embeddings/tokens",
        "bert/a/**": "encoder/**",
        "*/scale": "norm/scale",
        "**/x/*": "**/y/*",
    }
    entries = ledger(target, source, rename=renames)
    assert lines(entries) == [
        ("renamed", "embeddings/tokens", "bert/tokens"),
        ("renamed", "encoder/layers/kernel", "bert/a/layers/kernel"),
        ("renamed", "norm/scale", "ln/scale"),
        ("renamed", "lm/y/kernel", "lm/x/kernel"),
    ]
    first = ledger(BODY, BODY, rename={"norm/*": "norm/*", "norm/scale": "elsewhere"})
    assert lines(first) == lines(ledger(BODY, BODY))  # the first rule that matches wins
    error = refused(lambda: ledger(BODY, BODY, rename={"norm/scale": "norm/*"}), "more wildcards")
    assert error.where == "init.rename" and error.got == "norm/scale -> norm/*"


def test_two_stored_parameters_cannot_have_one_name():
    source = {**BODY, **leaves(ln__scale=(4,))}
    error = refused(lambda: ledger(BODY, source, rename={"ln/**": "norm/**"}), "have one name")
    assert "norm/scale and ln/scale both as norm/scale" in str(error.got)
    entries = ledger(BODY, source, rename={"ln/**": "norm/**"}, drop=("norm/**",))
    assert ("renamed", "norm/scale", "ln/scale") in lines(entries)
    assert ("dropped", None, "norm/scale") in lines(entries)


@pytest.mark.parametrize(
    ("rows", "detail"),
    [(13, "rows 0 to 9 kept, 3 fresh"), (6, "rows 0 to 5 kept, 4 left out")],
)
def test_embeddings_may_have_another_number_of_rows_if_told(rows, detail):
    target = {**BODY, **leaves(embeddings__tokens=(rows, 4))}
    entry, *rest = ledger(target, BODY, resize=("embeddings/*",))
    assert (entry.action, entry.target, entry.source) == ("resized", *2 * ("embeddings/tokens",))
    assert entry.shape == (rows, 4) and entry.detail == detail
    assert {e.action for e in rest} == {"restored"}
    error = refused(lambda: ledger(target, BODY), "another shape")
    assert (error.expected, error.got) == ([rows, 4], [10, 4])
    assert 'init.resize=["embeddings/tokens"]' in error.fix
    wider = {**BODY, **leaves(embeddings__tokens=(rows, 8))}
    refused(lambda: ledger(wider, BODY, resize=("embeddings/*",)), "another shape")


def test_another_dtype_is_refused_unless_asked_for():
    stored = {name: dataclasses.replace(leaf, dtype="bfloat16") for name, leaf in BODY.items()}
    errors = refused(lambda: ledger(BODY, stored), "another dtype")
    assert isinstance(errors, UserErrors)
    assert [(e.where, e.expected, e.got) for e in errors.errors] == [
        (name, "float32", "bfloat16") for name in BODY
    ]
    target = {**BODY, **leaves(embeddings__tokens=(11, 4))}
    entries = ledger(target, stored, cast=True, resize=("embeddings/tokens",))
    assert [e.action for e in entries] == ["resized", "restored", "restored"]
    assert all(entry.is_cast for entry in entries)


def test_top_layers_may_start_afresh():
    entries = ledger(BODY, BODY, fresh_top=2)
    assert [e.detail for e in entries] == ["", "layers 1 to 2 fresh", ""]
    assert all(entry.action == "restored" for entry in entries)
    ledger(BODY, BODY, fresh_top=3)
    error = refused(lambda: ledger(BODY, BODY, fresh_top=4), "not so many layers")
    assert error.where == "init.fresh_top" and error.got == 4
    refused(lambda: InitConfig(from_="run", fresh_top=-1), "out of range")


def test_some_of_the_stored_layers_make_a_model_of_fewer():
    student = {**BODY, **leaves(encoder__layers__kernel=(2, 4, 4))}
    entries = ledger(student, BODY, layers=(0, 2))
    assert [(e.action, e.layers, e.detail) for e in entries] == [
        ("restored", (), ""),
        ("resized", (0, 2), "layers 0, 2 of 3"),
        ("restored", (), ""),
    ]
    for layers in ((0, 3), (0, 1, 2), (1,)):
        error = refused(lambda layers=layers: ledger(student, BODY, layers=layers), "do not make")
        assert "2 layers of 0 to 2" in str(error)
    refused(lambda: InitConfig(from_="run", layers=(0, -1)), "counted from 0")


# --- It fails closed --------------------------------------------------------------------------


def shapes(**changes):
    abstract = flatten(unbox(Model(tiny.bert(**changes)).abstract()))
    return {name: Leaf(tuple(x.shape), str(x.dtype)) for name, x in abstract.items()}


@pytest.mark.parametrize("resize", [(), ("**",)])
def test_twelve_layers_into_sixteen_names_every_parameter_of_a_layer(resize):
    target, source = shapes(num_layers=16), shapes(num_layers=12)
    errors = refused(lambda: ledger(target, source, resize=resize), "another number of layers")
    assert isinstance(errors, UserErrors)
    stacked = [name for name in target if name.startswith("encoder/layers/")]
    assert len(stacked) == 16
    assert sorted(e.where for e in errors.errors) == sorted(f"{n} -> {n}" for n in stacked)
    for error in errors.errors:
        assert error.expected[0] == 16 and error.got[0] == 12
        assert "init.resize" not in error.fix


def test_an_uncovered_parameter_is_named_with_its_nearest_candidate():
    target = {**BODY, **leaves(encoder__norm__scale=(4,))}
    source = {**BODY, **leaves(encoder__nrm__scale=(4,))}
    errors = refused(lambda: ledger(target, source), "no stored parameter")
    assert isinstance(errors, UserErrors) and len(errors.errors) == 2
    missing, left = errors.errors
    assert missing.where == "encoder/norm/scale"
    assert "did you mean 'encoder/nrm/scale'" in missing.fix
    assert left.where == "encoder/nrm/scale" and "no place in the model" in left.what
    assert "did you mean 'encoder/norm/scale'" in left.fix
    assert 'init.drop=["encoder/nrm/scale"]' in left.fix
    dropped = ledger(target, source, drop=("encoder/nrm/*",), fresh=("encoder/norm/*",))
    assert lines(dropped)[-2:] == [
        ("fresh", "encoder/norm/scale", None),
        ("dropped", None, "encoder/nrm/scale"),
    ]


def test_what_is_stored_and_has_no_place_is_refused():
    source = {**BODY, **leaves(masked_lm__bias=(10,))}
    error = refused(lambda: ledger(BODY, source), "no place in the model")
    assert error.where == "masked_lm/bias"  # it is no head that anyone told of
    assert lines(ledger(BODY, source, drop=("masked_lm/**",)))[-1] == (
        "dropped",
        None,
        "masked_lm/bias",
    )


def test_dropping_what_is_needed_leaves_it_uncovered():
    error = refused(lambda: ledger(BODY, BODY, drop=("norm/**",)), "no stored parameter")
    assert error.where == "norm/scale"


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("rename", {"norms/scale": "x"}),
        ("drop", ("norms/scale",)),
        ("fresh", ("norms/scale",)),
        ("resize", ("norms/scale",)),
    ],
)
def test_a_rule_that_matches_nothing_is_refused_with_a_suggestion(rule, value):
    error = refused(lambda: ledger(BODY, BODY, **{rule: value}), "a rule matches no parameter")
    assert error.where == f"init.{rule}" and "did you mean 'norm/scale'" in error.fix


NAMES = st.sampled_from(["a/x", "a/y", "b/x", "b/y", "b/layers/x", "head/x"])
SHAPES = st.sampled_from([(2,), (3, 2), (5, 2), (3, 2, 2)])
PARAMETERS = st.dictionaries(
    NAMES, st.builds(Leaf, SHAPES, st.sampled_from(["float32", "bfloat16"])), max_size=5
)
PATTERNS = st.lists(st.sampled_from(["a/*", "b/**", "**/x", "**/y", "b/x"]), max_size=2).map(tuple)
RENAMES = st.dictionaries(
    st.sampled_from(["a/*", "b/*", "b/x"]), st.sampled_from(["b/*", "a/*", "a/x"]), max_size=1
)
HEADS = st.sampled_from([(), ("head",)])


@settings(max_examples=400, deadline=None)
@given(PARAMETERS, PARAMETERS, RENAMES, PATTERNS, PATTERNS, PATTERNS, st.booleans(), HEADS, HEADS)
def test_every_parameter_is_in_it_exactly_once_or_it_is_an_error(
    target, source, rename, drop, fresh, resize, cast, target_heads, source_heads
):
    options = dict(rename=rename, drop=drop, fresh=fresh, resize=resize, cast=cast)
    try:
        entries = ledger(target, source, (target_heads, source_heads), **options)
    except UserError:
        return
    assert sorted(e.target for e in entries if e.target is not None) == sorted(target)
    assert sorted(e.source for e in entries if e.source is not None) == sorted(source)
    asked = lambda patterns, name: any(matches(pattern, name) for pattern in patterns)
    is_head = lambda heads, name: name.split("/")[0] in heads
    for e in entries:
        if e.target is None or e.source is None:
            assert e.action == ("dropped" if e.target is None else "fresh")
            if e.action == "fresh":
                assert asked(fresh, e.target) or is_head(target_heads, e.target)
            else:
                is_replaced = any(x.action == "fresh" and asked(fresh, x.target) for x in entries)
                assert asked(drop, e.source) or is_head(source_heads, e.source) or is_replaced
            continue
        leaf, stored = target[e.target], source[e.source]
        assert e.is_cast == (leaf.dtype != stored.dtype) and (cast or not e.is_cast)
        assert (e.source == e.target) or rename
        if e.action == "resized":
            assert asked(resize, e.target) and leaf.shape[1:] == stored.shape[1:]
            assert "layers" not in e.target
        else:
            assert e.action == ("restored" if e.source == e.target else "renamed")
            assert leaf.shape == stored.shape == e.shape


# --- Showing and keeping ----------------------------------------------------------------------


def test_the_table_counts_by_what_became_of_them():
    target = {**BODY, **leaves(classify__kernel=(4, 2), embeddings__tokens=(12, 4))}
    entries = ledger(target, BODY, (["classify"], []), resize=("embeddings/tokens",), fresh_top=1)
    shown = {tuple(line.split()[:4]): line for line in table(entries)[1:]}
    assert set(shown) == {
        ("resized", "embeddings", "1", "48"),
        ("restored", "encoder", "1", "48"),
        ("restored", "norm", "1", "4"),
        ("fresh", "classify", "1", "8"),
    }
    assert "(layers 2 to 2 fresh)" in shown["restored", "encoder", "1", "48"]


def test_the_file_holds_every_entry(tmp_path):
    entries = ledger(BODY, BODY, fresh=("norm/**",))
    write_ledger(tmp_path / "ledger.json", {"run": "base", "step": 3}, entries)
    content = json.loads((tmp_path / "ledger.json").read_text())
    assert content["from"] == {"run": "base", "step": 3}
    kept = [(e["action"], e["target"], e["source"]) for e in content["parameters"]]
    assert kept == lines(entries)


def test_a_vocabulary_grows_in_heads_too_and_a_width_does_not():
    stored = {
        "causal_lm/output/kernel": Leaf((16, 40), "float32"),
        "masked_lm/bias": Leaf((40,), "float32"),
    }
    target = {
        "causal_lm/output/kernel": Leaf((16, 48), "float32"),
        "masked_lm/bias": Leaf((48,), "float32"),
    }
    kernel, bias = ledger(target, stored, resize=("**",))
    assert kernel.detail == "columns 0 to 39 kept, 8 fresh"
    assert bias.detail == "rows 0 to 39 kept, 8 fresh"
    wider = {**target, "causal_lm/output/kernel": Leaf((32, 48), "float32")}
    refused(lambda: ledger(wider, stored, resize=("**",)), "another shape")

"""Errors say what, where, expected, got and what to do."""

from jaxssl.core.errors import UserError, UserErrors, did_you_mean


def test_an_error_tells_every_part_that_is_known():
    text = str(UserError("it broke", where="a.b", expected="1", got=0, fix="do this"))
    lines = text.splitlines()
    assert lines[0] == "it broke"
    assert [line.split() for line in lines[1:]] == [
        ["where:", "a.b"],
        ["expected:", "1"],
        ["got:", "0"],
        ["fix:", "do", "this"],
    ]
    assert str(UserError("short")) == "short"


def test_several_errors_are_one():
    errors = UserErrors([UserError("first", where="a"), UserError("second")])
    assert isinstance(errors, UserError) and isinstance(errors, ValueError)
    assert "first" in str(errors) and "second" in str(errors)


def test_suggestions_are_close_or_absent():
    assert did_you_mean("hiden_size", ["hidden_size", "rate"]) == "did you mean 'hidden_size'?"
    assert did_you_mean("xyz", ["hidden_size"]) is None

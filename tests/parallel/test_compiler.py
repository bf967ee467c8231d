"""Options of the compiler by chip, and what becomes of them."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.parallel.compiler import LOOKED_AT, OF_KIND, THROUGH_FROZEN, compiler_options

YNN = "xla_cpu_experimental_ynn_fusion_type"


def mesh(kind):
    """Of one chip that need not be there."""
    return SimpleNamespace(devices=np.array([[SimpleNamespace(device_kind=kind)]]))


@pytest.mark.parametrize("kind", OF_KIND)
def test_a_chip_has_its_own_and_each_may_be_changed_or_left_out(kind):
    usual = dict(compiler_options(mesh(kind)))
    assert usual == OF_KIND[kind]
    name = next(iter(usual))
    assert dict(compiler_options(mesh(kind), {name: 7})) == {**usual, name: 7}
    left = dict(compiler_options(mesh(kind), {name: None}))
    assert left == {other: value for other, value in usual.items() if other != name}


def test_a_chip_that_is_not_known_has_none():
    assert compiler_options(mesh("some GPU")) == ()
    assert compiler_options(mesh("some GPU"), {"xla": 1}) == (("xla", 1),)


def test_those_of_frozen_layers_come_on_top_and_may_be_left_out():
    assert compiler_options(mesh("cpu")) == ()
    assert dict(compiler_options(mesh("cpu"), through_frozen=True)) == THROUGH_FROZEN["cpu"]
    assert compiler_options(mesh("cpu"), {YNN: None}, through_frozen=True) == ()


def test_a_version_of_jax_that_was_not_looked_at_has_none(monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", LOOKED_AT)
    assert compiler_options(mesh("cpu"), through_frozen=True) == ()


def test_the_cpus_compiler_takes_them():
    """A name that it does not know would be an error."""
    options = dict(compiler_options(mesh("cpu"), through_frozen=True))
    product = jax.jit(lambda x, w: jnp.tanh(x @ w + 1), compiler_options=options)
    x = jnp.ones((256, 256))
    assert "ynn" not in product.lower(x, x).compile().as_text()

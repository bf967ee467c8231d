"""Directories that are written: casts that would lose a number, and weights in several files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.checkpoint.hf.directory import open_model
from jaxssl.checkpoint.hf.writing import write_directory
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.models.gpt2 import Gpt2Config
from jaxssl.models.heads import CAUSAL_LM
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model

SIZES = dict(vocab_size=61, hidden_size=12, num_layers=2, num_heads=2, intermediate_size=20)
CONFIG = Gpt2Config(**SIZES, max_positions=16)
TABLE = "embeddings/tokens/embedding"


@pytest.fixture(scope="module")
def params():
    return flatten(unbox(Model(CONFIG, (CAUSAL_LM,)).init(jax.random.key(0))))


def write(out, params, **options):
    out.mkdir()
    parameters = {name: [value] for name, value in params.items()}
    heads = {"causal_lm": "causal_lm"}
    return write_directory(out, CONFIG, heads, parameters, more={}, **options)


def test_weights_in_several_files_are_read_as_they_were(params, tmp_path):
    write(tmp_path / "out", params, dtype="float32", shard_bytes=4000)
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    found = open_model(tmp_path / "out")
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for name, value in params.items():
        wanted = jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=here)
        assert np.array_equal(found.read(name, wanted), value), name


@pytest.mark.parametrize(("value", "refused"), [(7e4, True), (np.inf, False), (np.nan, False)])
def test_a_number_that_float16_has_none_for_is_refused(value, refused, params, tmp_path):
    changed = {**params, TABLE: jnp.asarray(params[TABLE]).at[1, 2].set(value)}
    if refused:
        with pytest.raises(UserError, match=r"(?s)too large for float16.*wte"):
            write(tmp_path / "out", changed, dtype="float16")
    else:  # it was no number before
        write(tmp_path / "out", changed, dtype="float16")
        assert open_model(tmp_path / "out").leaves()[TABLE].dtype == "float16"

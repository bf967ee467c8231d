"""A token that the vocabulary does not have is refused where it is read, by every kind of rows."""

import re
import shutil

import numpy as np
import pytest
import toy

from jaxssl.core.errors import UserError
from jaxssl.data.config import StoreConfig
from jaxssl.data.loader import load, open_rows
from jaxssl.data.store.store import TokenStore


@pytest.fixture(scope="module")
def spoilt(words, tmp_path_factory):
    """A store with ids beyond its vocabulary in the middle of `train`."""
    path = tmp_path_factory.mktemp("spoilt") / "store"
    shutil.copytree(words, path)
    toy.without_samples(path)
    shard = path / "train" / "00000.tokens"
    tokens = np.fromfile(shard, np.uint16)
    middle = len(tokens) // 2
    tokens[middle : middle + 20] = TokenStore.open(path).vocab_size
    tokens.tofile(shard)
    return path


@pytest.mark.parametrize("rows", ["windows", "packed", "pairs"])
def test_an_id_beyond_the_vocabulary_is_refused_with_the_command_that_finds_it(rows, spoilt):
    from jaxssl.core import config as configuration

    content = {"store": str(spoilt), "rows": {"name": rows}, "sequence_length": 16}
    config = configuration.load(StoreConfig, [content], [])
    source = open_rows(config, "train")
    indices = np.arange(source.num_rows)
    bad = []
    for index in indices:
        try:
            source.rows(np.array([index]), 0)
        except UserError as error:
            bad.append(index)
            assert f"jaxssl inspect {spoilt} --verify" in str(error)
    assert 0 < len(bad) < len(indices) / 4, "only rows that hold it"
    with pytest.raises(UserError, match=re.escape(str(spoilt / "train"))):
        source.rows(indices, 0)


def test_the_reading_thread_hands_the_refusal_on(spoilt):
    with load(StoreConfig(store=str(spoilt), sequence_length=16, batch_size=8)) as loader:
        with pytest.raises(UserError, match="the vocabulary does not have"):
            for _ in range(100):
                next(loader)


def test_the_largest_id_of_the_vocabulary_is_not_refused(words, tmp_path):
    shutil.copytree(words, tmp_path / "store")
    store = TokenStore.open(tmp_path / "store")
    shard = store.path / "train" / "00000.tokens"
    tokens = np.fromfile(shard, np.uint16)
    tokens[7] = store.vocab_size - 1
    tokens.tofile(shard)
    assert store.split("train").tokens(np.array([7])) == store.vocab_size - 1

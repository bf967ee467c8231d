"""What a run reads is compared with its checksums, whoever opens it."""

import pytest
import toy

from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.run import feeds


@pytest.mark.parametrize(("told", "heard"), [("null", None), ("true", True), ("false", False)])
@pytest.mark.parametrize("first", [True, False], ids=["the first process", "another"])
def test_data_verify_is_heard_by_training_and_evaluation_in_every_process(
    told, heard, first, byte_store, tmp_path, monkeypatch
):
    opened = []
    real = feeds.TokenStore.open

    def spied(path, *, verify=False):
        opened.append(verify)
        return real(path, verify=verify)

    monkeypatch.setattr(feeds.TokenStore, "open", spied)
    monkeypatch.setattr(feeds.hosts, "is_first", lambda: first)
    monkeypatch.setattr(feeds.hosts, "first_decides", lambda decide: decide() if first else 0)
    config = toy.configured(byte_store, tmp_path / "run", "gpt2", f"data.verify={told}")
    (stream,) = config.all_streams.values()
    feeds.open_split(stream, "validation", config.model, load_tokenizer(byte_store / "tokenizer"))
    assert opened == [heard]
    feeds._complete_store(stream.data, "validation")
    assert opened[1:] == ([heard, False] if first else [heard])

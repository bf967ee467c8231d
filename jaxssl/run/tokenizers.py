"""The tokenizer of a run: one for all its text and all that it starts from."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxssl.checkpoint.origin import open_origin
from jaxssl.core.errors import UserError
from jaxssl.core.types import Vocabulary
from jaxssl.data.config import StoreConfig
from jaxssl.data.store.store import TokenStore
from jaxssl.data.tokenizer.extension import pieces_before
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.run.config import RunConfig
from jaxssl.run.networks import inits
from jaxssl.transfer.growth import NewPieces


def find_tokenizer(config: RunConfig) -> str:
    """The directory, file or name of a run's tokenizer: the one that is given, that of its token
    stores, or that of the run it goes on from. Of several it is the one that all others are the
    beginning of.

    Raises:
      UserError: none of these, or two that differ in more than further pieces of the one; further
        pieces without `init.new_pieces`.
    """
    given: list[_Given] = []
    for name, stream in config.all_streams.items():
        if isinstance(stream.data, StoreConfig) and TokenStore.open(stream.data.store):
            key, path = "data.store", f"{stream.data.store}/tokenizer"
            key = f"streams.{name}.{key}" if name else key
            given.append(_Given(f"the token store of {name or 'data'}", key, path))
    if config.tokenizer is not None:
        given.append(_Given("tokenizer", "tokenizer", config.tokenizer))
    for name, init in inits(config).items():
        if init is not None:
            what, key = _started(name), "init.from"
            if name:
                key = f"networks.{name}.init.from"
            path = str(open_origin(init.run_dir).tokenizer)
            given.append(_Given(what, key, path, may_grow=init.new_pieces != "fresh"))
    if not given:
        raise UserError(
            "without a run to start from, a tokenizer must be given",
            where="tokenizer",
            expected="a tokenizer directory, a .model file or a name on the hub",
            got="null",
            fix="set tokenizer=..., or init.from=RUN",
        )
    if len(given) == 1:
        return given[0].path
    loaded = [_Loaded(one, load_tokenizer(one.path)) for one in given]
    largest = max(loaded, key=lambda one: one.tokenizer.vocab_size)
    for one in loaded:
        _check_same_tokenizer(one, largest, loaded)
    return largest.given.path


class _Given(NamedTuple):
    """A tokenizer that a run is told of.

    Attributes:
      what: what has it.
      key: the key that names that.
      path: where it lies.
      may_grow: whether the run's may have further pieces behind its own.
    """

    what: str
    key: str
    path: str
    may_grow: bool = True


class _Loaded(NamedTuple):
    """The same with the tokenizer."""

    given: _Given
    tokenizer: Tokenizer


def _started(network: str) -> str:
    """What a network starts from, in words."""
    return f"what {network} starts from" if network else "the run to start from"


def _check_same_tokenizer(one: _Loaded, largest: _Loaded, order: Sequence[_Loaded]) -> None:
    """Refuses to go on with embeddings of another tokenizer's tokens."""
    if one.tokenizer.fingerprint == largest.tokenizer.fingerprint:
        return
    is_beginning = one.tokenizer.is_beginning_of(largest.tokenizer)
    if is_beginning and one.given.may_grow:
        return
    first, other = sorted((one, largest), key=order.index)  # stores come first
    is_store = other.given.key.endswith("data.store")
    ours, theirs = first.tokenizer, other.tokenizer
    raise UserError(
        f"{first.given.what} was made with another tokenizer than {other.given.what}",
        where=f"{first.given.key}, {other.given.key}",
        expected=f"the tokenizer of {other.given.what}: {theirs.name}, "
        f"{theirs.vocab_size:,} pieces ({theirs.fingerprint[:12]})",
        got=f"{ours.name}, {ours.vocab_size:,} pieces ({ours.fingerprint[:12]})",
        fix="its further pieces begin as means of the old ones with init.new_pieces=mean"
        if is_beginning
        else f"prepare the text of {first.given.key} in another `out` with "
        f"tokenizer={other.given.path}, or "
        + (
            "the other way round"
            if is_store
            else f"give {other.given.key} one with the same tokenizer"
        ),
    )


def new_pieces(config: RunConfig, tokenizer: Tokenizer) -> dict[str, NewPieces]:
    """The pieces that the tokenizer has besides those of what a network starts from, where their
    rows are made of others' (`init.new_pieces`)."""
    found = {}
    for name, init in inits(config).items():
        if init is None or init.scratch or init.new_pieces == "fresh":
            continue
        old = load_tokenizer(open_origin(init.run_dir).tokenizer)
        before = pieces_before(old, tokenizer)
        found[name] = NewPieces(old.vocab_size, tuple(map(tuple, before)))
    return found


def make_vocabulary(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """What objectives need of the tokenizer, for a model with `size` embeddings.

    Raises:
      UserError: the tokenizer has more tokens than that.
    """
    if tokenizer.vocab_size > size:
        raise UserError(
            "the model's vocabulary is smaller than the tokenizer's",
            where="model.vocab_size",
            expected=f"at least {tokenizer.vocab_size}, the size of tokenizer {tokenizer.name}",
            got=size,
            fix=f"set model.vocab_size={tokenizer.vocab_size}",
        )
    roles = {role: id_ for role, id_ in tokenizer.special_ids.items() if id_ is not None}
    starts = np.ones(size, bool)
    starts[: tokenizer.vocab_size] = tokenizer.word_starts()
    return Vocabulary(
        size=tokenizer.vocab_size,
        special_ids=roles,
        document_end=tokenizer.document_end,
        word_starts=starts,
        special_tokens=tokenizer.special_tokens,
        find_sentence_ends=tokenizer.sentence_ends,
    )

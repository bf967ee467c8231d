"""Sentinels of a tokenizer: those that are counted, and the command that makes them."""

import dataclasses
import shlex

import pytest
import tiny
import toy

from jaxssl import cli
from jaxssl.core.errors import UserError
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.objectives.sentinels import check_sentinels, sentinels_of
from jaxssl.run.tokenizers import make_vocabulary


def test_they_are_counted_up_to_the_first_that_is_not_there():
    special = {"<extra_id_1>": 7, "</s>": 1, "<extra_id_0>": 9, "<extra_id_3>": 5}
    vocabulary = dataclasses.replace(tiny.vocabulary(), special_tokens=special)
    assert sentinels_of(vocabulary).tolist() == [9, 7]


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece_unigram"])
def test_the_command_that_is_told_makes_what_is_missing(kind, tmp_path, capsys):
    old = toy.train_toy_tokenizer(kind, 100 if kind == "sentencepiece_unigram" else 300)
    old.save(tmp_path / "old")
    with pytest.raises(UserError) as error:
        check_sentinels(make_vocabulary(old, old.vocab_size), 40)
    command = error.value.fix.rpartition("extend one: ")[2]
    assert command == "jaxssl tokenizer extends=TOKENIZER sentinels=100 out=..."
    command = command.replace("TOKENIZER", str(tmp_path / "old"))
    command = command.replace("...", str(tmp_path / "new"))
    assert cli.main(shlex.split(command)[1:]) == 0
    size = old.vocab_size + 100
    assert f"new: {size} pieces\n" in capsys.readouterr().out
    new = load_tokenizer(tmp_path / "new")
    with pytest.raises(UserError, match=rf"(?s)at least {size}.*set model\.vocab_size={size}"):
        make_vocabulary(new, old.vocab_size)
    vocabulary = make_vocabulary(new, size)
    check_sentinels(vocabulary, 100)
    assert sentinels_of(vocabulary).tolist() == [*range(size - 1, size - 101, -1)]

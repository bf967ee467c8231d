"""The ends of texts that an imported model's files name."""

import json

import pytest

from jaxssl.checkpoint.hf.generation import GENERATION, generation_of, stop_ids, take_over
from jaxssl.core.errors import UserError


@pytest.fixture
def directories(tmp_path):
    source, run = tmp_path / "source", tmp_path / "run"
    source.mkdir()
    run.mkdir()
    return source, run


def write(path, content):
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(("said", "ids"), [(3, (3,)), ([3, 5], (3, 5)), (None, ()), ([], ())])
def test_the_file_of_the_model_is_kept_and_names_the_ends(said, ids, directories):
    source, run = directories
    content = {"eos_token_id": said, "top_p": 0.9}
    write(source / GENERATION, content)
    write(source / "config.json", {"eos_token_id": [1, 2]})
    take_over(source, run)
    assert stop_ids(run, 10) == ids
    assert generation_of(run) == content


@pytest.mark.parametrize(("said", "ids"), [([3, 5], (3, 5)), (3, ()), (None, ())])
def test_without_it_several_ends_of_the_configuration_count(said, ids, directories):
    source, run = directories
    write(source / "config.json", {"eos_token_id": said})
    take_over(source, run)
    assert stop_ids(run, 10) == ids
    assert (generation_of(run) is None) == (ids == ())


@pytest.mark.parametrize("content", [{"eos_token_id": "</s>"}, {"eos_token_id": [10]}, []])
def test_what_cannot_be_an_end_is_refused(content, directories):
    _, run = directories
    write(run / GENERATION, content)
    with pytest.raises(UserError) as raised:
        stop_ids(run, 10)
    assert GENERATION in str(raised.value)

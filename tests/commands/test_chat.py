"""`jaxssl chat` over lines of the standard input, and in a terminal."""

import io

import pytest
import talks

from jaxssl import cli
from jaxssl.commands import chat
from jaxssl.generate.chat import Conversation
from jaxssl.generate.settings import Sampling


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return talks.shared_run(tmp_path_factory)


@pytest.fixture
def answers(monkeypatch):
    """What is answered, as it comes."""
    made, ask = [], Conversation.ask

    def noted(*given):
        made.append(ask(*given))
        return made[-1]

    monkeypatch.setattr(Conversation, "ask", noted)
    return made


def test_answers_alone_are_written_where_nobody_sits(place, answers, monkeypatch, capsys):
    """One for each line but blank ones; old turns go whole, and it is said."""
    lines = ["the cat sees a dog", "my sister sees a dog", "", "a dog", "the old man sees a dog"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    flags = ["--temperature", "0", "--tokens", "12", "--min-tokens", "12", "--system", "at home"]
    assert cli.main(["chat", str(place / "run"), *flags]) == 0
    said, told = capsys.readouterr()
    assert len(answers) == 4 and said == "".join(f"{made.text}\n" for made in answers)
    assert sum(made.forgotten for made in answers) == told.count("turn is forgotten") > 0


def test_in_a_terminal_answers_stream_and_a_mistake_ends_nothing(
    place, answers, monkeypatch, capsys
):
    given = iter(["the cat " * 90, "the cat sees a dog"])

    def ask(prompt):
        print(prompt, end="")
        try:
            return next(given)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", ask)
    sampling = Sampling(temperature=0, max_new_tokens=12, min_new_tokens=12)
    assert chat.chat(place / "run", sampling, talks=True) == 0
    said, told = capsys.readouterr()
    (made,) = answers
    assert said.startswith("> > ") and said.endswith("\n> \n")
    assert said[4:-4].strip() == made.text and not made.ended
    assert "too long" in told and "the answer is cut" in told


def test_a_talk_is_ended_by_a_word_and_a_file_of_lines_is_not(place, answers, monkeypatch, capsys):
    lines = ["/quit", "the cat"]
    given = iter(lines)
    monkeypatch.setattr("builtins.input", lambda prompt: next(given))
    sampling = Sampling(temperature=0, max_new_tokens=12)
    assert chat.chat(place / "run", sampling, talks=True) == 0
    assert not answers
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert chat.chat(place / "run", sampling, talks=False) == 0
    assert len(answers) == 2 and capsys.readouterr().out.count("\n") >= 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--window", "9999"], "no such window"),
        (["--template", "nowhere"], "no such chat template"),
        (["--tokens", "127"], "no room"),
        (["--temperature", "-1"], "out of range"),
    ],
)
def test_mistakes_are_told_with_exit_code_2(place, arguments, told, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert cli.main(["chat", str(place / "run"), *arguments]) == 2
    assert told in capsys.readouterr().err

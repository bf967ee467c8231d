"""`jaxssl chat` over lines of the standard input, and in a terminal."""

import io

import pytest
import talks
import toy

from jaxssl import cli
from jaxssl.commands import chat
from jaxssl.core.config import to_yaml
from jaxssl.generate.chat import Conversation
from jaxssl.generate.settings import Sampling
from jaxssl.run.applied import apply, writes
from jaxssl.run.open import generate_texts
from jaxssl.run.recipes import load_config
from jaxssl.run.train import train_run


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


def test_with_an_adapter_it_answers_as_the_run_that_trained_it(
    place, tmp_path, monkeypatch, capsys
):
    few = (
        "train.steps=3",
        "train.epochs=null",
        "checkpoint.every=3",
        "optimizer.schedule.warmup=1",
    )
    settings = (f"init.from={place / 'run'}", "peft.name=lora", "optimizer.learning_rate=0.1")
    out = tmp_path / "lora"
    given = (out, place / "tokens", place / "talks.jsonl")
    train_run(talks.configured(*given, overrides=(*few, *settings)), lambda text: None)
    answers = []
    for run, adapters in ((out, []), (place / "run", ["--adapter", str(out)]), (place / "run", [])):
        monkeypatch.setattr("sys.stdin", io.StringIO("the cat sees a dog\na dog"))
        assert cli.main(["chat", str(run), *adapters, "--temperature", "0", "--tokens", "9"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != answers[2]
    sampling = Sampling(temperature=1, max_new_tokens=9)
    texts = generate_texts(place / "run", ["the cat"], sampling, adapters=[str(out)])
    assert texts == generate_texts(out, ["the cat"], sampling)
    # Of a model that was only pretrained the turns are those that the adapter learnt.
    plain = load_config([toy.recipe_of("gpt2", tmp_path, tmp_path / "plain", 304)])
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.yaml").write_text(to_yaml(plain))
    assert apply(tmp_path / "plain", [str(out)], writes).run_dir == out


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

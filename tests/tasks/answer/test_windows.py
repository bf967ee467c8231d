"""Windows of contexts: each token in some, each owned by one, answers found again in them."""

import pytest
import squad_questions
import toy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.data.corpus.sources import Docstrings
from jaxssl.data.tokenizer.training import TokenizerTrainConfig, train_on_texts
from jaxssl.tasks.answer.questions import Gold, Question
from jaxssl.tasks.answer.spans import words
from jaxssl.tasks.answer.windows import (
    Layout,
    answer_tokens,
    context_windows,
    encode_questions,
    join_rows,
)

KINDS = ("wordpiece", "byte_bpe", "sentencepiece_bpe", "sentencepiece_unigram")
ODD = ["caf\u00e9", "cafe\u0301", "\ufb01ne", "\u201cNa\u00efve\u201d", "Z\u00dcRICH", "x\u00bd"]
ODD += ["\U0001f600", "\u2764\ufe0f", "\u4f60\u597d", "the", "cat.", "(U.S.)", "$3.50", "\u0130x"]
_trained = {}


def trained(kind):
    """A tokenizer of each kind, trained once."""
    if kind not in _trained:
        config = TokenizerTrainConfig(
            source=Docstrings(),
            kind=kind,
            out=kind,
            vocab_size=104 if kind.startswith("sentencepiece") else 400,
            lowercase=kind == "wordpiece",
        )
        texts = [*squad_questions.texts(), " ".join([*ODD, *ODD[::-1]])]
        texts += ["".join(document) for document in toy.documents(20)]
        _trained[kind] = train_on_texts(config, lambda: texts)
    return _trained[kind]


@st.composite
def shapes(draw):
    """(tokens of a context, room of a window, overlap); past 100 BERT's rule is another."""
    room = draw(st.one_of(st.integers(1, 40), st.integers(150, 400)))
    return draw(st.integers(1, 4 * room)), room, draw(st.integers(0, room - 1))


def berts_owner(windows, token):
    """The window that run_squad.py says a token has most context in, with exact numbers."""
    best, best_value = None, None
    for number, (begin, end) in enumerate(windows):
        if not begin <= token < end:
            continue
        value = 100 * min(token - begin, end - 1 - token) + (end - begin)
        if best_value is None or value > best_value:
            best, best_value = number, value
    return best


@given(shapes())
@settings(deadline=None)
def test_windows_cover_every_token_and_overlap_as_asked(shape):
    length, room, overlap = shape
    windows = context_windows(*shape)[:, :2].tolist()
    assert windows[0][0] == 0 and windows[-1][1] == length
    assert all(end - begin == room for begin, end in windows[:-1])
    assert all(0 < end - begin <= room for begin, end in windows)
    for (_, end), (begin, later_end) in zip(windows, windows[1:]):
        assert end - begin == overlap and later_end > end
    assert len(windows) == 1 or length > room


@given(shapes())
@example((385, 384, 129))  # the last window has more context of a token, but is much shorter
@settings(deadline=None)
def test_every_token_belongs_to_the_window_of_berts_rule_alone(shape):
    windows = context_windows(*shape).tolist()
    owner = [[i for i, w in enumerate(windows) if w[2] <= t < w[3]] for t in range(shape[0])]
    bounds = [w[:2] for w in windows]
    assert owner == [[berts_owner(bounds, token)] for token in range(shape[0])]


def asked_of(context, *golds, text="what colour is the cat?", name="q"):
    answers = tuple(Gold(gold, context.index(gold)) for gold in golds)
    return Question(name, text, context, answers, f"here:{name}")


@pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe"])
def test_a_row_is_the_question_and_a_window_in_the_frame_of_pairs(kind):
    tokenizer = trained(kind)
    filler = "every bird sees a fish near an old river and paints one stone. "
    context = filler * 3 + "Cat is red. " + filler * 2
    question = asked_of(context, "red")
    layout = Layout(40, max_question=4, overlap=6)
    asked, cut = encode_questions([question], tokenizer, layout)
    examples, references = join_rows(asked, tokenizer)
    before, between, after = tokenizer.frame(pair=True)
    text, whole = (row.tolist() for row in tokenizer.encode_batch([question.text, context]))
    assert cut == 1 and len(text) > 4 and len(references) == examples.num_rows >= 3
    seen, begin = [], 0
    for i, window in enumerate(references):
        row = examples.tokens[examples.starts[i] : examples.starts[i + 1]].tolist()
        end = min(begin + 40 - len(before + between + after) - 4, len(whole))
        assert row == before + text[:4] + between + whole[begin:end] + after
        assert window.first == len(before) + 4 + len(between)
        assert (window.begin, window.count) == (begin, len(references))
        first, stop = examples.per_row["context"][i]
        assert row[first:stop] == whole[begin:end]
        assert examples.second[i] == first
        owned = examples.per_row["owned"][i]
        assert first <= owned[0] <= owned[1] <= stop
        seen += whole[begin - first + owned[0] : begin - first + owned[1]]
        labels = examples.per_row["labels"][i]
        gold = answer_tokens(question.answers[0], window.spans, question)
        if begin <= gold[0] and gold[1] < end:
            assert row[labels[0] : labels[1] + 1] == whole[gold[0] : gold[1] + 1]
        else:
            assert labels.tolist() == [-1, -1]
        begin = end - 6
    assert seen == whole
    in_rows = (examples.per_row["labels"] >= 0).all(axis=1)
    assert 1 <= in_rows.sum() < len(in_rows)
    assert tokenizer.decode(whole[gold[0] : gold[1] + 1]).strip() == "red"


@pytest.mark.parametrize("kind", KINDS)
@given(
    pieces=st.lists(st.sampled_from([*ODD, "cat", "of"]), min_size=3, max_size=9),
    gap=st.sampled_from([" ", "  ", "\n\n", "\t", "\u00a0"]),
    ends=st.tuples(st.integers(0, 8), st.integers(0, 8)),
)
@settings(max_examples=60, deadline=None)
def test_answers_of_odd_text_come_back_to_the_character(kind, pieces, gap, ends):
    context = gap + gap.join(pieces) + " "
    first, last = sorted(end % len(pieces) for end in ends)
    start = len(gap.join(pieces[:first])) + len(gap) * (1 + (first > 0))
    gold = Gold(gap.join(pieces[first : last + 1]), start)
    assert context.startswith(gold.text, start)
    question = Question("q", "what?", context, (gold,), "here")
    asked, _ = encode_questions([question], trained(kind), Layout(300, 20, 9))
    span = asked[0].gold
    assert words(context, asked[0].spans[span[0], 0], asked[0].spans[span[1], 1]) == (
        gold.text,
        start,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gold", ["red", "blue", "white"])
def test_what_touches_an_answer_is_no_part_of_it(kind, gold):
    context = "It is (red),\u201cblue\u201d-white..."
    asked, _ = encode_questions([asked_of(context, gold)], trained(kind), Layout(90, 20, 9))
    first, last = asked[0].gold
    spans = asked[0].spans
    assert words(context, spans[first, 0], spans[last, 1]) == (gold, context.index(gold))


def test_spaces_around_an_answer_are_no_part_of_it():
    question = Question("q", "what?", "the  cat sat", (Gold(" cat ", 4),), "here")
    asked, _ = encode_questions([question], trained("byte_bpe"), Layout(90, 20, 9))
    first, last = asked[0].gold
    assert words(question.context, asked[0].spans[first, 0], asked[0].spans[last, 1]) == ("cat", 5)


def test_a_context_is_encoded_once_for_all_its_questions(monkeypatch):
    tokenizer, seen = trained("wordpiece"), []
    encode = tokenizer.encode_with_offsets
    monkeypatch.setattr(tokenizer, "encode_with_offsets", lambda t: seen.extend(t) or encode(t))
    contexts = ["Cat is red.", "Cat is blue.", "Cat is red."]
    questions = [asked_of(c, name=str(i)) for i, c in enumerate(contexts)]
    asked, _ = encode_questions(questions, tokenizer, Layout(40, 8, 6))
    assert seen == contexts[:2]
    assert [x.tolist() for x in asked[0].tokens] == [x.tolist() for x in asked[2].tokens]


@pytest.mark.parametrize(
    ("text", "context", "gold", "length", "message"),
    [
        ("what?", "Cat is red.", None, 40 - 1, "(?s)too little room.*data.max_length.*at least 40"),
        ("\u200b", "Cat is red.", None, 60, "(?s)a question has no token.*here"),
        ("what?", "\u0301\u200b", None, 60, "(?s)a context has no token.*here"),
        ("what?", "Cat \u200b is red.", "\u200b", 60, "(?s)an answer has no token.*here"),
    ],
)
def test_what_makes_no_row_is_told_with_its_place(text, context, gold, length, message):
    answers = () if gold is None else (Gold(gold, context.index(gold)),)
    questions = [Question("q", text, context, answers, "here")]
    with pytest.raises(UserError, match=message):
        encode_questions(questions, trained("wordpiece"), Layout(length, 20, 16))

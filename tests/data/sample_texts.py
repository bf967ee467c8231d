"""Small texts for the tests of sources, tokenizers and `prepare`."""

import random

WORDS = (
    "the of and to in a is that for it as was with be by on not he his but at are this have from "
    "model token array gradient layer value returns parameter shape default optional input output"
).split()
NASTY = (
    'Dr. Smith paid $3.50 (U.S.) for it. "Really?" she asked. Yes! 3 times...\n\n  New paragraph.',
    "A literal [SEP] and [CLS][MASK] and <|endoftext|> and </s><mask> <s>. Then <pad>. [UNK]",
    "Naïve café — “quoted.” Ünïcode…  Double  spaces.\t\tTabs.\r\nWindows line.\x0bVT \x1c FS. Go",
    "你好。再见！「真的？」是的。 日本語のテキスト。 Mixed 中文. End",
    "emoji 😀. Combining e\u0301 at. \u0301Starts with a mark. Нечто. Другое",
    "x" * 300 + ". Next",
    "One, two, three, and (four), [five]; six: done.",
    "\n\n  leading space. Trailing space.  \n\n",
    "don't can't I'm. 'Quoted.' It's 5's. _under_score_. #tag. @me",
)


def sentence(rng):
    words = [rng.choice(WORDS) for _ in range(rng.randint(3, 14))]
    return " ".join([words[0].capitalize(), *words[1:]]) + rng.choice(".....!?")


def documents(count, seed=0, sentences=12):
    """English-like documents: sentences in paragraphs."""
    rng = random.Random(seed)
    return [
        "".join(
            (rng.choice([" ", " ", " ", "\n", "\n\n"]) if i else "") + sentence(rng)
            for i in range(rng.randint(1, sentences))
        )
        for _ in range(count)
    ]

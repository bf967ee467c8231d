"""What parts words: the same in files, in texts to tag and in predictions."""

BLANKS = " \t\r\n"
"""Whitespace of ASCII alone. Other spaces of Unicode stand within words (10\\u00a0000), and some
words are one: each has a tag."""


def split_words(text: str) -> list[str]:
    """The words of a text, parted by `BLANKS`."""
    return [word for word in text.translate(_TO_SPACE).split(" ") if word]


_TO_SPACE = str.maketrans(dict.fromkeys(BLANKS, " "))

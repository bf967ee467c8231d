"""Reader of CoNLL columns: a token a line, a blank line after each sentence."""

from collections.abc import Iterator

from jaxssl.core.errors import UserError
from jaxssl.data.tables.blanks import BLANKS, split_words
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.conllu import BLANK_LINE, COLUMNS, NO_WORD
from jaxssl.data.tables.lines import Lines, Size
from jaxssl.data.tables.table import Table, in_parts

DOCUMENT_START = "-DOCSTART-"
CONLLU_WIDTH = 1 + len(COLUMNS)


def read_conll(path: str, config: TableFile, rows: int | None = None) -> Iterator[Table]:
    """One token a line and a blank line after each sentence; `-DOCSTART-` lines are left out."""
    with Lines(path, config.encoding) as lines:
        for part in in_parts(_sentences(lines, config), rows):
            columns: dict[str, list] = {
                name: [[token[i] for token in tokens] for _, tokens in part]
                for i, name in enumerate(config.positions)
            }
            yield Table(columns, [place for place, _ in part], path)


def _sentences(lines: Lines, config: TableFile) -> Iterator[tuple[str, list[list[str]]]]:
    """The place of each sentence's first token, and of each token the columns to read."""
    place, tokens, width = "", [], 0
    size = Size("sentence", BLANK_LINE)
    for line in lines:
        fields = _fields(line, config.delimiter)
        if not fields or fields[0] == DOCUMENT_START:
            if tokens:
                yield place, tokens
            tokens = []
            continue
        if config.comment_prefix and line.startswith(config.comment_prefix):
            continue
        if not width:
            width = _check_positions(len(fields), config.positions, lines.place)
        if width == CONLLU_WIDTH:
            _check_no_conllu(fields, config.positions, lines.place)
        if len(fields) != width:
            raise _ragged_token(lines.place, width, fields)
        if not tokens:
            place = lines.place
            size.start(place)
        size.add(line)
        tokens.append([fields[position] for position in config.positions.values()])
    if tokens:
        yield place, tokens


def _fields(line: str, delimiter: str | None) -> list[str]:
    """The line's values; none if it is blank."""
    if delimiter is None or not line.strip(BLANKS):
        return split_words(line)
    return line.rstrip("\r\n").split(delimiter)


def _check_positions(width: int, positions: dict[str, int], place: str) -> int:
    """`width` if the positions are columns of their own among so many."""
    resolved = [p + width if p < 0 else p for p in positions.values()]
    inside = all(0 <= p < width for p in resolved)
    if inside and len(set(resolved)) == len(resolved):
        return width
    raise UserError(
        "a position is beyond the columns of the file"
        if not inside
        else "two names stand for one column",
        where=f"positions, {place}",
        expected=f"different positions from 0 to {width - 1}, or from the end: -1 to {-width}",
        got=", ".join(f"{name}: {p}" for name, p in positions.items()),
        fix="check positions and delimiter",
    )


def _check_no_conllu(fields: list[str], positions: dict[str, int], place: str) -> None:
    """Refuses ids for words, and lines of CoNLL-U that are no words."""
    reads_ids = fields[0] == "1" and positions.get("words") in (0, -CONLLU_WIDTH)
    if reads_ids or NO_WORD.fullmatch(fields[0]):
        raise UserError(
            "a line of CoNLL-U, which has ids before the words",
            where=place,
            expected="a token and its columns",
            got="\t".join(fields)[:200],
            fix="set format=conllu, and task.label to upos, xpos or feats; leave out positions",
        )


def _ragged_token(place: str, width: int, fields: list[str]) -> UserError:
    return UserError(
        f"a token with too {'few' if len(fields) < width else 'many'} columns",
        where=place,
        expected=f"{width} columns, as in the lines before",
        got=f"{len(fields)}: {' '.join(fields)}"[:200],
        fix='check delimiter (delimiter="\\t" lets words hold spaces) and comment_prefix; '
        "CoNLL-U is format=conllu",
    )

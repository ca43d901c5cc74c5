"""The ways in which a reply is read: each looks for one shape that verdicts have, and notes what it finds.

In: plain lines of a reply. Out: in `Found`, scores with the line that they end on, and what looked like scores and can't be. Whether
these make a verdict is decided in `verdict`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from finetune_assistant.judging import score_words as words

LOWEST, HIGHEST = 1, 8
Scores = tuple[float, ...]  # one, or that of the first answer shown and that of the second
Match = re.Match[str]


@dataclass(slots=True)
class Found:
    """What all readings of one reply gave."""

    scores: list[tuple[Scores, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def take(self, values: Sequence[float | None], line: int) -> None:
        """A verdict, if it is whole."""
        whole = [value for value in values if value is not None]
        if len(whole) == len(values):
            self.scores.append((tuple(whole), line))

    def value(self, number: str, scale: str | None, percent: str | None) -> float | None:
        """The groups of `score_words.NUMBER` as a score; None where they can't be one, which is noted."""
        value = float(words.NUMERALS.get(number, 0) or number.replace(",", "."))
        if percent or (scale and scale != str(HIGHEST)):
            self.problems.append(f"a score is on another scale: {number}{percent or f'/{scale}'}")
        elif not LOWEST <= value <= HIGHEST:
            self.problems.append(f"a score is out of range {LOWEST} to {HIGHEST}: {value:g}")
        else:
            return value
        return None

    def only(self, given: Sequence[tuple[float, bool]]) -> float | None:
        """The one value of (value, whether it is final); final ones go before the others. Several are noted."""
        values = {value for value, final in given if final} or {value for value, _ in given}
        if len(values) > 1:
            self.problems.append(f"several verdicts: {', '.join(f'{value:g}' for value in sorted(values))} for one answer")
        return values.pop() if len(values) == 1 else None


def bare_pairs(lines: Sequence[str], found: Found) -> None:
    """Lines that are two scores, with a name before them and a sentence behind them at most."""
    for at, line in enumerate(lines):
        if table_cells(line):
            continue
        line = _without_asides(line)
        match = words.PAIR.search(_without_label_digits(line))
        if match is None or not _introduces(before := line[: match.start()]) or not _closes(rest := line[match.start("rest") :]):
            if at == 0 and words.RANGE.match(line):
                found.problems.append("two numbers with a dash are two scores or a range")
            continue
        pair = [found.value(*match.groups()[start : start + 3]) for start in (0, 3)]
        named = _label_order(before) or _label_order(rest if rest.lstrip().startswith("(") else "")
        if named in ([], [1, 2]):
            found.take(pair, at)
        elif named == [2, 1]:
            found.take(pair[::-1], at)


def _without_asides(line: str) -> str:
    """Without brackets that hold neither numbers nor names, as in `7 (good) 4 (fair)`."""
    return re.sub(r"\([^()\d]*\)", lambda aside: aside.group() if re.search(words.LABEL, aside.group()) else " ", line)


def _without_label_digits(line: str) -> str:
    """Of the same length: the 1 of `assistant 1` is no score."""

    def masked(label: Match) -> str:
        return re.sub(r"\d", "#", label.group())

    return re.sub(words.LABEL, masked, words.LINE_LABEL.sub(masked, line))


def _introduces(before: str) -> bool:
    """Whether what stands before two numbers makes them a verdict: nothing, or a word for scores; not a criterion."""
    before = before.strip(" :-\u2013(|[")
    if not before or re.fullmatch(r"\d[.)]", before):
        return True
    if words.CRITERIA.search(before) or re.search(r"\d", before):
        return False
    named = re.search(rf"\b(?:{words.SCORE}|{words.FINAL})\b", before) is not None and len(before) < 60
    return named or _label_order(before) == [2, 1]


def _closes(rest: str) -> bool:
    """Whether nothing behind two numbers says that they are something else."""
    rest = rest.strip()
    if re.match(r"[.,;:]?\s*\d|[-+*/=<>%~]\s*\d", rest):
        return False
    return not rest or rest[0] in ".!;:(#,\u3002-\u2013\u2014" or rest in (")", "]", "|", "],")


def _label_order(text: str) -> list[int]:
    return [_label(found) for found in re.finditer(words.LABEL, text)]


def _label(match: Match) -> int:
    return 1 if match["one"] else 2


def lone_lines(lines: Sequence[str], found: Found) -> None:
    """A score a line at the beginning, two of them, numbered or not."""
    alone = [re.fullmatch(rf"(?:{number}[.)]\s+)?{words.NUMBER}\.?", line) for number, line in enumerate(lines[:3], start=1)]
    if len(alone) >= 2 and all(alone[:2]) and not any(alone[2:]):
        found.take([found.value(*match.groups()) for match in alone[:2] if match], 1)


def alike(lines: Sequence[str], found: Found) -> None:
    """One score for both."""
    for at, line in enumerate(lines):
        if match := words.BOTH.search(line) or words.EACH.search(line):
            value = found.value(*match.groups()[:3])
            found.take([value, value], at)


def labelled(lines: Sequence[str], found: Found) -> None:
    """Scores beside the names of the answers, and scores below headings that are those names."""
    given: dict[int, list[tuple[float, bool]]] = {1: [], 2: []}
    section, last = 0, 0
    for at, line in enumerate(lines):
        if table_cells(line):
            continue
        entries = list(_named_scores(line, found))
        heading = _label_order(line) or _line_label(line)
        if len(set(heading)) == 1 and len(line) < 60:
            section = heading[0]
        elif section and not entries and (match := words.OWN_SCORE.match(line)):
            value = found.value(*match.groups()[1:4])
            entries = [] if value is None else [(section, value, bool(match[1]))]
        for label, value, final in entries:
            given[label].append((value, final))
            last = at
    found.take([found.only(given[label]) for label in (1, 2)], last)


def _named_scores(line: str, found: Found) -> Iterator[tuple[int, float, bool]]:
    """(label, score, whether it is final) for each name with a score beside it."""
    labels = list(re.finditer(words.LABEL, line))
    if not labels:
        if match := words.LINE_LABEL.match(line):
            yield from _score_after(line, match.end(), _line_label(line)[0], found)
        return
    behind = [entry for match in labels for entry in _score_after(line, match.end(), _label(match), found)]
    yield from behind or _scores_before(line, labels, found)


def _line_label(line: str) -> list[int]:
    match = words.LINE_LABEL.match(line)
    return [] if match is None else [1 if match["number"] == "1" or match["letter"] == "a" else 2]


def _score_after(line: str, end: int, label: int, found: Found) -> Iterator[tuple[int, float, bool]]:
    """The score of a name that ends at `end`, where one stands right behind it."""
    glue = words.GLUE.match(line, end)
    match = re.compile(words.NUMBER).match(line, glue.end()) if glue else None
    if glue is None or match is None or (match.start() == end and line[end - 1].isalnum()):
        return
    rest = line[match.end() :]
    if re.match(r"\s*[-\u2013~]\s*\d|\s+(?:to|bis)\s+\d", rest):
        found.problems.append(f"a range instead of a score: {line[match.start() :][:20]}")
    elif _may_follow(rest) and (value := found.value(*match.groups()[:3])) is not None:
        yield label, value, bool(re.search(words.FINAL, glue.group()))


def _may_follow(rest: str) -> bool:
    """Whether the text behind a number lets it be a score: in `4 functions` and `2 + 2` it is not one.

    >>> _may_follow(", which is fair"), _may_follow(" functions"), _may_follow(" and assistant 2")
    (True, False, True)
    """
    return not re.match(r"\s*[+*/=<>%]|[.,]\d|\s*,\s*\d", rest) and re.match(words.FOLLOWS, rest) is not None


def _scores_before(line: str, labels: Sequence[Match], found: Found) -> Iterator[tuple[int, float, bool]]:
    """Names behind their scores, as in `8 for assistant 1, 6 for assistant 2`: a score right before each of two names."""
    inside = {place for label in labels for place in range(*label.span())}
    numbers = [number for number in re.finditer(words.NUMBER, line) if number.start() not in inside]
    if sorted(map(_label, labels)) != [1, 2] or len(numbers) != 2:
        return
    sides = list(zip(numbers, labels, strict=True))
    if not all(words.BEHIND.fullmatch(line, number.end(), label.start()) for number, label in sides):
        return
    for number, label in sides:
        if (value := found.value(*number.groups()[:3])) is not None:
            yield _label(label), value, False


def tables(lines: Sequence[str], found: Found) -> None:
    """Tables of the answers by rows or by columns; with several numbers each, the overall ones."""
    rows = [(at, cells) for at, line in enumerate(lines) if (cells := table_cells(line))]
    if len(rows) < 2:
        return
    header = rows[0][1]
    columns = {label: at for at, cell in enumerate(header) for label in _label_order(cell)}
    by_row = {label[0]: (at, cells) for at, cells in rows if len(label := _row_label(cells[0], header[0])) == 1}
    if set(columns) == {1, 2}:
        for at, cells in rows[1:]:
            if re.search(rf"\b(?:{words.SCORE}|{words.FINAL})\b", cells[0]) and len(cells) > max(columns.values()):
                found.take([_cell(cells[columns[label]], found) for label in (1, 2)], at)
    elif set(by_row) == {1, 2}:
        numeric = [at for at, cell in enumerate(by_row[1][1]) if at and re.fullmatch(words.NUMBER, cell)]
        overall = [at for at in numeric if at < len(header) and re.search(rf"\b(?:{words.FINAL})\b", header[at])] or numeric
        if len(overall) == 1 and all(len(cells) > overall[0] for _, cells in by_row.values()):
            found.take([_cell(by_row[label][1][overall[0]], found) for label in (1, 2)], max(at for at, _ in by_row.values()))


def table_cells(line: str) -> list[str]:
    """The cells of a table's row; empty for any other line."""
    if line.count("|") < 2:
        return []
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def _row_label(cell: str, header: str) -> list[int]:
    """A name, or its number alone below a heading that is the noun."""
    return [int(cell)] if cell in ("1", "2") and re.search(words.NOUNS, header) else _label_order(cell)


def _cell(text: str, found: Found) -> float | None:
    match = re.fullmatch(words.NUMBER, text)
    return None if match is None else found.value(*match.groups()[:3])


def single_scores(lines: Sequence[str], found: Found) -> None:
    """A line that is a score; a word for scores with one beside it; so many out of eight. Final ones go before the others."""
    given: list[tuple[float, bool]] = []
    last = 0
    for at, line in enumerate(lines):
        alone = re.match(rf"^{words.NUMBER}(?=\s*(?:$|[.!;:\u2013\u2014]\s*[^\d\s]|[.!]$))", line)
        own = words.OWN_SCORE.match(line)
        spoken = words.OUT_OF_EIGHT.search(line)
        if at == 0 and (words.RANGE.match(line) or (words.PAIR.match(line) and not alone)):
            found.problems.append("several numbers instead of one score")
            return
        match, start = (alone, 0) if alone else (own, 1) if own else (spoken, 1)
        if match is None or words.CRITERIA.match(line):
            continue
        value = found.value(*match.groups()[start : start + 3])
        if value is not None:
            given.append((value, bool(own and own[1])))
            last = at
    found.take([found.only(given)], last)


Reading = Callable[[Sequence[str], Found], None]
# By the number of scores that are wanted.
READINGS: dict[int, tuple[Reading, ...]] = {1: (single_scores,), 2: (bare_pairs, lone_lines, alike, labelled, tables)}

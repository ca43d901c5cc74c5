"""People as judges: ballots that don't say which model wrote what, and their votes read back.

In: pairs of answers, and the files that people filled in. Out: ballots with sides chosen by a seed, the key that opens them, votes. What
votes say of models and judges is in `votes`.
"""

import csv
import hashlib
import io
import json
import random
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jinja2
from markupsafe import Markup

from finetune_api.errors import InvalidData
from finetune_api.json_text import json_value
from finetune_assistant.judging.answers import Pair, Pairs, pair_of, pair_row
from finetune_assistant.judging.votes import Vote
from finetune_trainer.files.atomic import write_atomically

Side = Literal["left", "right", "tie"]
SUFFIXES = (".html", ".csv", ".jsonl")
COLUMNS = ("id", "prompt", "left", "right", "vote")
_WORDS: dict[Side, str] = {"left": "left l 1 links", "right": "right r 2 rechts", "tie": "tie t = 0 both same equal neither"}
_SIDES = {word: side for side, words in _WORDS.items() for word in words.split()}
_FORMULA = re.compile(r"^(?=[=+\-@\t\r])")  # how a cell begins that a spreadsheet would compute


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """One pair without names. `left_is_a` stays in the key."""

    id: str
    pair: Pair
    left_is_a: bool

    @property
    def left(self) -> str:
        """The answer on the left."""
        return self.pair.answer_a if self.left_is_a else self.pair.answer_b

    @property
    def right(self) -> str:
        """The answer on the right."""
        return self.pair.answer_b if self.left_is_a else self.pair.answer_a


def ballots(pairs: Sequence[Pair], *, seed: int) -> list[Ballot]:
    """Pairs in random order with random sides, numbered anew; equal answers are left out. The same for the same seed."""
    draw = random.Random(seed)
    different = [pair for pair in pairs if pair.answer_a != pair.answer_b]
    shuffled = draw.sample(different, len(different))
    return [Ballot(id=str(number), pair=pair, left_is_a=draw.random() < 0.5) for number, pair in enumerate(shuffled, start=1)]


def write_ballots(path: Path, key_path: Path, drawn: Sequence[Ballot], pairs: Pairs) -> None:
    """The ballots, by the name's end as a page, a table or JSON lines, and their key apart, for its owner's eyes. Raises InvalidData."""
    writers = {".html": _as_page, ".csv": _as_table, ".jsonl": _as_lines}
    key = {"names": list(pairs.names), "ballots": {one.id: {"left": "a" if one.left_is_a else "b", **pair_row(one.pair)} for one in drawn}}
    try:
        write_atomically(key_path, json.dumps(key, ensure_ascii=False, indent=1).encode("utf-8", errors="replace"))
        key_path.chmod(0o600)
        write_atomically(path, writers[path.suffix](drawn).encode("utf-8", errors="replace"))
    except OSError as error:
        raise InvalidData(f"{path} can't be written: {error.strerror or error}; choose another folder") from error


def _as_lines(drawn: Sequence[Ballot]) -> str:
    rows = [{"id": one.id, "prompt": one.pair.prompt, "left": one.left, "right": one.right, "vote": ""} for one in drawn]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _as_table(drawn: Sequence[Ballot]) -> str:
    """With the mark by which spreadsheets know UTF-8, and nothing that they would compute."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows([one.id, *(_FORMULA.sub("'", cell) for cell in (one.pair.prompt, one.left, one.right)), ""] for one in drawn)
    return "\ufeff" + text.getvalue()


def _as_page(drawn: Sequence[Ballot]) -> str:
    script = (Path(__file__).parent / "ballot.js").read_text(encoding="utf-8")
    # The page runs this script and no other, whatever an answer holds.
    allowed = "'sha256-" + b64encode(hashlib.sha256(script.encode()).digest()).decode() + "'"
    name = hashlib.sha256("".join(one.left + one.right for one in drawn).encode("utf-8", errors="replace")).hexdigest()[:12]
    return _page().render(ballots=drawn, script=Markup(script), allowed=Markup(allowed), name=name)


@cache
def _page() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("ballot.html.jinja")


def read_votes(paths: Sequence[Path], key_path: Path) -> list[Vote]:
    """The votes of filled-in files; ballots without a vote are left out. Raises InvalidData, naming file and row."""
    key = _read_key(key_path)
    found = [vote for path in paths for vote in _votes(path, key)]
    seen: set[tuple[str, Pair]] = set()
    for vote in found:
        if (vote.rater, vote.pair) in seen:
            raise InvalidData(f"{vote.rater} votes twice on the same ballot; give files different names, or a column `rater`")
        seen.add((vote.rater, vote.pair))
    return found


def _read_key(path: Path) -> dict[str, Any]:
    try:
        key = json_value(path.read_text(encoding="utf-8"))
        names = key["names"]
        return {
            "names": (str(names[0]), str(names[1])),
            "ballots": {number: (one["left"] == "a", pair_of(one)) for number, one in key["ballots"].items()},
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise InvalidData(f"--key {path} is no key of `finetune human export` ({why})") from error


def _votes(path: Path, key: Mapping[str, Any]) -> Iterator[Vote]:
    for number, row in _rows(path):
        place = f"{path} row {number}"
        side = _side(row, place)
        if side is None:
            continue
        if (ballot := key["ballots"].get(str(row.get("id", "")).strip())) is None:
            raise InvalidData(f"{place}: id {row.get('id')!r} is not in the key; give the key that was written with these ballots")
        left_is_a, pair = ballot
        label: Literal["a", "b", "tie"] = "tie" if side == "tie" else "a" if (side == "left") == left_is_a else "b"
        yield Vote(pair=pair, label=label, rater=str(row.get("rater") or path.stem), names=key["names"])


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row, columns) of JSON lines, or of a table whose first line says the columns and, by its marks, what is between them."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidData(f"{path} can't be read: {getattr(error, 'strerror', None) or error}; save it as UTF-8") from error
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    row = json_value(line)
                except ValueError as error:
                    raise InvalidData(f"{path} row {number} is no JSON: {error}") from error
                yield number, row if isinstance(row, dict) else {}
        return
    head = text.partition("\n")[0]
    mark = max(",;\t", key=head.count)
    for number, columns in enumerate(csv.DictReader(io.StringIO(text, newline=""), delimiter=mark), start=1):
        yield number, {str(name).strip().lower(): value for name, value in columns.items()}


def _side(row: Mapping[str, Any], place: str) -> Side | None:
    """A vote, two ranks (1 is best) or two scores (more is better); None where the row has none."""
    word = str(row.get("vote") or "").strip().lower()
    if word:
        if word not in _SIDES:
            raise InvalidData(f"{place}: vote {word!r} is none of left, right and tie")
        return _SIDES[word]
    for names, sign in ((("rank_left", "rank_right"), -1), (("score_left", "score_right"), 1)):
        given = [str(row.get(name) or "").strip() for name in names]
        if any(given):
            try:
                left, right = (sign * float(value.replace(",", ".")) for value in given)
            except ValueError as error:
                raise InvalidData(f"{place}: {names[0]} and {names[1]} are {given[0]!r} and {given[1]!r}; write two numbers") from error
            return "tie" if left == right else "left" if left > right else "right"
    if not {"vote", "rank_left", "score_left"} & set(row):
        raise InvalidData(f"{place} has no `vote`, no `rank_left` and `rank_right`, and no `score_left` and `score_right`")
    return None

"""From the rows of a source to what is learnt from: checked, of one shape, each with the tree that the split never divides.

In: rows of `sources.read`. Out, in the order of the rows: a `Dialogue` (or `Document`, or `TokenRow`) for everything that can be learnt
from and a `Dropped` for everything that is not used, with the reason. How a row becomes one is the business of `rows`, trees are that of
`oasst`; nothing here knows files, tokens or templates.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Final

from finetune_api.errors import InvalidData
from finetune_api.finetunejob import DataFilter, DataSource
from finetune_trainer.data.dialogues import Dropped, InvalidRow, Message, Place
from finetune_trainer.data.formats import Notice, detected_format, ignore_notice, named_format, no_format
from finetune_trainer.data.messages import Spoken, check_order, role_of, text_message
from finetune_trainer.data.oasst import NOT_READY, PLACE, FlatMessages, Turn, is_ready, tree_paths
from finetune_trainer.data.raw_rows import Row, Unreadable
from finetune_trainer.data.rows import Item, Leading, RowParser, Trailing, usable

_ROWS_TO_RECOGNISE: Final = 1000  # how far `auto` looks for a row that fits a format


def parse(
    rows: Iterable[Row],
    source: DataSource,
    *,
    leading_assistant_turns: Leading = "drop",
    trailing_user_turns: Trailing = "trim",
    notice: Notice = ignore_notice,
) -> Iterator[Item]:
    """All that can be learnt from, and all that is not used. Raises InvalidData if `format: auto` recognises nothing.

    `notice` gets one sentence about each choice made for the user: the format that `auto` chose, markup removed, columns that are not read.
    """
    form, rows = _with_format(rows, source, notice)
    if source.filter.top_answers is not None and form != "oasst":
        raise InvalidData(f"{source.path}: filter.topAnswers ranks the answers of OASST trees, and the format is {form}; remove it")
    if form == "oasst":
        yield from _parse_trees(rows, source, trailing_user_turns)
        return
    parser = RowParser(form, source, leading_assistant_turns, trailing_user_turns)
    try:
        for row in rows:
            yield from parser.items(row)
    finally:  # also when no more rows are asked for
        for text in parser.notices():
            notice(text)


def _with_format(rows: Iterable[Row], source: DataSource, notice: Notice) -> tuple[str, Iterator[Row]]:
    """The format of `rows`, and all of them again. `auto` takes that of the first row that fits one: a row before it is wrong."""
    remaining = iter(rows)
    if source.format != "auto":
        return source.format, remaining
    seen: list[Row] = []
    for row in remaining:
        seen.append(row)
        if not isinstance(row[2], Unreadable) and (form := detected_format(row[2], source)) is not None:
            notice(f"{source.path}: format {form}, recognised from row {row[1]}")
            return form, chain(seen, remaining)
        if len(seen) == _ROWS_TO_RECOGNISE:
            break
    readable = [(where, number, data) for where, number, data in seen if not isinstance(data, Unreadable)]
    for _, number, data in readable:
        if (form := named_format(data, source)) is not None:
            notice(f"{source.path}: format {form}, by the columns of row {number}")
            return form, chain(seen, remaining)
    if readable:
        where, number, data = readable[0]
        raise InvalidData(f"{where} row {number}: {no_format(data)}")
    return "messages", chain(seen, remaining)  # no row could be read: each is reported as it is


def _parse_trees(rows: Iterable[Row], source: DataSource, trailing: Trailing) -> Iterator[Item]:
    """Dialogues of OASST rows: those with a `prompt` are trees; the others are messages, put together after the last row."""
    flat = FlatMessages()
    for where, number, data in rows:
        try:
            if isinstance(data, Unreadable):
                raise InvalidRow(data.reason)
            if "prompt" not in data:
                flat.add((where, number), data)
                continue
            if "message_tree_id" not in data:
                raise InvalidRow("no column 'message_tree_id'")
        except InvalidRow as error:
            yield Dropped(source=where, row=number, reason=str(error), kind="invalid")
        else:
            tree, state = str(data["message_tree_id"]), data.get("tree_state")
            yield from _tree_dialogues((where, number), tree, state, data["prompt"], source.filter, trailing)
    for tree, roots, unreachable in flat.joined():
        for root in roots:
            yield from _tree_dialogues(root[PLACE], tree, root["tree_state"], root, source.filter, trailing)
        for node in unreachable:
            reason = f"parent_id {node['parent_id']} leads to no first message of its tree"
            yield Dropped(source=node[PLACE][0], row=node[PLACE][1], reason=reason, kind="invalid")


def _tree_dialogues(place: Place, tree: str, state: Any, root: Any, wanted: DataFilter, trailing: Trailing) -> Iterator[Item]:
    """The paths of one tree; one wrong message that is wanted makes the whole tree invalid."""
    where, number = place
    if not is_ready(state):
        yield Dropped(source=where, row=number, reason=NOT_READY, kind="filtered")
        return
    try:
        paths = [(path, () if path.unwanted else _messages(path.turns)) for path in tree_paths(root, place, wanted)]
    except InvalidRow as error:
        yield Dropped(source=where, row=number, reason=str(error), kind="invalid")
        return
    for path, messages in paths:
        if path.unwanted:
            yield Dropped(source=path.place[0], row=path.place[1], reason=path.unwanted, kind="filtered")
        else:
            yield from usable(path.place, tree, messages, trailing)


def _messages(turns: list[Turn]) -> tuple[Message, ...]:
    """The turns of a path, checked. Raises InvalidRow."""
    messages = []
    for number, (written, content, identity) in enumerate(turns, start=1):
        role: Spoken = role_of(written, number)
        if role == "calls" or role == "tool":
            raise InvalidRow(f"message {number}: unknown role {written!r} in a tree")
        messages.append(Message(role=role, content=text_message(content, f"message {number} ({role})"), id=identity))
    check_order(messages, range(1, len(messages) + 1))
    return tuple(messages)

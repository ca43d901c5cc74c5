"""Conversation trees as OpenAssistant exports them: one tree a row, or one message a row.

In: rows. Out: every path from a tree's first message to a leaf, each with the reason if it is not wanted. A message keeps its
id, because the paths of a tree share their beginnings: 1.44 times each assistant message, in 100 real trees.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from finetune_api.finetunejob import DataFilter
from finetune_trainer.data.dialogues import InvalidRow, Place

Node = dict[str, Any]
Turn = tuple[Any, Any, str | None]  # role and text as written, identity

NOT_READY = "tree is not ready for export"
DELETED = "a message of the path is deleted"
SYNTHETIC = "a message of the path is synthetic"
REJECTED = "reviewers rejected a message of the path"
OTHER_LANGUAGE = "a message of the path is in another language"
NOT_AMONG_BEST = "a message of the path is not among the best-ranked answers"

# What is kept of a row that holds one message: all such rows are in memory until the last one is read.
KEPT = ("message_id", "parent_id", "text", "role", "lang", "deleted", "synthetic", "rank", "tree_state", "review_result")
PLACE = "__place__"  # where a message that has a row of its own stood


@dataclass(frozen=True, slots=True)
class TreePath:
    """From a tree's first message to a leaf. `unwanted` says why it is not used."""

    place: Place
    turns: list[Turn]
    unwanted: str | None


def is_ready(state: Any) -> bool:
    """Whether a tree in this `tree_state` is finished. Trees without one come from exports of finished trees only."""
    return state is None or state == "ready_for_export"


def tree_paths(root: Any, place: Place, wanted: DataFilter) -> Iterator[TreePath]:
    """Every root-to-leaf path, in the order of the replies; `place` is the row of the tree. Raises InvalidRow.

    An explicit stack: a tree of one long conversation must not end in a RecursionError.
    """
    stack: list[tuple[Any, int, str | None]] = [(root, 0, None)]
    turns: list[Turn] = []
    while stack:
        node, depth, unwanted = stack.pop()
        del turns[depth:]
        turns.append(_turn(node, depth))
        unwanted = unwanted or _unwanted(node, wanted)
        replies = _replies(node)
        if not replies:
            yield TreePath(node.get(PLACE, place), list(turns), unwanted)
        passed_over = _passed_over(replies, wanted)
        for reply in reversed(replies):
            stack.append((reply, depth + 1, unwanted or (NOT_AMONG_BEST if id(reply) in passed_over else None)))


def _turn(node: Any, depth: int) -> Turn:
    if not isinstance(node, dict) or not {"role", "text"} <= node.keys():
        raise InvalidRow(f"message {depth + 1} of a path is not an object with 'role' and 'text'")
    identity = node.get("message_id")
    if identity is not None and not isinstance(identity, str):
        raise InvalidRow(f"message_id {identity!r} is not a string")
    return node["role"], node["text"], identity


def _replies(node: Node) -> list[Any]:
    replies = node.get("replies") or []
    if not isinstance(replies, list):
        raise InvalidRow(f"replies of message {node.get('message_id')} are not a list")
    return replies


def _unwanted(node: Node, wanted: DataFilter) -> str | None:
    if node.get("deleted"):
        return DELETED
    if node.get("synthetic"):
        return SYNTHETIC
    if wanted.rejected == "drop" and node.get("review_result") is False:
        return REJECTED
    return OTHER_LANGUAGE if wanted.languages and node.get("lang") not in wanted.languages else None


def _passed_over(replies: list[Any], wanted: DataFilter) -> set[int]:
    """Object ids of the usable assistant replies after the best `top_answers`: rank 0 is the best, none the last."""
    if wanted.top_answers is None:
        return set()
    answers = [reply for reply in replies if isinstance(reply, dict) and reply.get("role") == "assistant"]
    usable = [reply for reply in answers if _unwanted(reply, wanted) is None]
    return {id(reply) for reply in sorted(usable, key=_rank)[wanted.top_answers :]}


def _rank(reply: Node) -> float:
    rank = reply.get("rank")
    return rank if isinstance(rank, int | float) else math.inf


@dataclass(frozen=True, slots=True)
class FlatMessages:
    """Rows of one message each, in any order, until all of them are read: only then is a tree known to be whole."""

    trees: dict[str, dict[str, Node]] = field(default_factory=dict)

    def add(self, place: Place, data: dict[str, Any]) -> None:
        """Keep what a path needs of a row. Raises InvalidRow."""
        missing = [name for name in ("message_tree_id", "message_id", "text", "role") if data.get(name) is None]
        if missing:
            raise InvalidRow(f"no {' and no '.join(missing)}: neither a tree (column 'prompt') nor a message of one")
        if not isinstance(data["message_id"], str) or not isinstance(data.get("parent_id"), str | None):
            raise InvalidRow("message_id and parent_id must be strings")
        messages = self.trees.setdefault(str(data["message_tree_id"]), {})
        node = {PLACE: place, "replies": []} | {name: data.get(name) for name in KEPT}
        if messages.setdefault(data["message_id"], node) is not node:
            raise InvalidRow(f"message_id {data['message_id']} is that of row {messages[data['message_id']][PLACE][1]}")

    def joined(self) -> Iterator[tuple[str, list[Node], list[Node]]]:
        """Per tree: its name, its first messages (one, in a sound export), and the messages that can't be reached from them."""
        for tree, messages in self.trees.items():
            for node in messages.values():
                if parent := messages.get(node["parent_id"]):
                    parent["replies"].append(node)
            roots = [node for node in messages.values() if node["parent_id"] is None]
            reached = {id(node) for node in _nodes(roots)}
            yield tree, roots, [node for node in messages.values() if id(node) not in reached]


def _nodes(roots: Iterable[Node]) -> Iterator[Node]:
    stack = list(roots)
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node["replies"])

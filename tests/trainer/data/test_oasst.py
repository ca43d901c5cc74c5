"""Paths of OpenAssistant trees, given as trees and as rows of one message each."""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_api.finetunejob import DataFilter, DataSource
from finetune_trainer.data.dialogues import Dialogue, Dropped
from finetune_trainer.data.parsing import parse


def node(identity: str, *replies: Any, **fields: Any) -> dict[str, Any]:
    """A message; ids that begin with q are the user's, with a the assistant's."""
    role = "prompter" if identity.startswith("q") else "assistant"
    defaults = {"text": f"text {identity}", "lang": "en", "deleted": False, "synthetic": False}
    return {"message_id": identity, "role": role, "replies": list(replies), **defaults, **fields}


def tree(root: dict[str, Any], state: str | None = "ready_for_export") -> dict[str, Any]:
    return {"message_tree_id": root["message_id"], "tree_state": state, "prompt": root}


def flat(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """The same tree as rows of one message each, parents first."""

    def messages(message: dict[str, Any], parent: str | None) -> Iterator[dict[str, Any]]:
        own = {name: value for name, value in message.items() if name != "replies"}
        yield own | {"parent_id": parent, "message_tree_id": tree["message_tree_id"], "tree_state": tree["tree_state"]}
        for reply in message["replies"]:
            yield from messages(reply, message["message_id"])

    return list(messages(tree["prompt"], None))


def parsed(*data: dict[str, Any], keep: bool = False, **wanted: Any) -> list[Dialogue | Dropped]:
    source = DataSource(path="./trees.jsonl", filter=DataFilter(**wanted))
    rows = [("trees.jsonl", number, row) for number, row in enumerate(data, start=1)]
    return list(parse(rows, source, trailing_user_turns="keep" if keep else "trim"))


def paths(items: list[Dialogue | Dropped]) -> list[str]:
    return [" ".join(str(message.id) for message in item.messages) for item in items if isinstance(item, Dialogue)]


def reasons(items: list[Dialogue | Dropped], kind: str) -> list[str]:
    return [item.reason for item in items if isinstance(item, Dropped) and item.kind == kind]


SMALL = tree(node("q1", node("a1", node("q2", node("a2"), node("a3")), node("q3")), node("a4")))


def test_every_path_from_the_root_to_a_leaf_with_message_ids() -> None:
    items = parsed(SMALL)
    assert paths(items) == ["q1 a1 q2 a2", "q1 a1 q2 a3", "q1 a1", "q1 a4"]
    assert paths(parsed(SMALL, keep=True)) == ["q1 a1 q2 a2", "q1 a1 q2 a3", "q1 a1 q3", "q1 a4"]
    assert reasons(items, "trimmed") == ["trailing user turn"]
    assert {item.tree for item in items if isinstance(item, Dialogue)} == {"q1"}
    assert [message.role for item in items[:1] if isinstance(item, Dialogue) for message in item.messages] == ["user", "assistant"] * 2


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_one_message_give_the_same_paths_in_any_order(seed: int) -> None:
    other = tree(node("q9", node("a9")))
    rows = flat(SMALL) + flat(other)
    random.Random(seed).shuffle(rows)
    assert sorted(paths(parsed(*rows))) == sorted(paths(parsed(SMALL, other)))


def test_a_path_of_flat_rows_has_the_row_of_its_last_message() -> None:
    items = parsed(*flat(SMALL))
    assert [item.row for item in items if isinstance(item, Dialogue)] == [4, 5, 6, 7]


@pytest.mark.parametrize("state", ["growing", "aborted_low_grade", "halted_by_moderator"])
def test_trees_that_are_not_ready_are_filtered(state: str) -> None:
    unready = tree(node("q1", node("a1")), state)
    for items in (parsed(unready), parsed(*flat(unready))):
        assert paths(items) == []
        assert reasons(items, "filtered") == ["tree is not ready for export"]
    assert paths(parsed(tree(node("q1", node("a1")), None))) == ["q1 a1"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"deleted": True}, "a message of the path is deleted"),
        ({"synthetic": True}, "a message of the path is synthetic"),
        ({"review_result": False, "review_count": 3}, "reviewers rejected a message of the path"),
        ({"lang": "de"}, "a message of the path is in another language"),
    ],
)
def test_paths_through_an_unwanted_message_are_filtered(fields: dict[str, Any], reason: str) -> None:
    unwanted = node("a1", node("q2", node("a2")), node("q3", node("a3")), **fields)
    items = parsed(tree(node("q1", unwanted, node("a4"))), languages=["en", "es"])
    assert paths(items) == ["q1 a4"]
    assert reasons(items, "filtered") == [reason] * 2


def test_a_path_that_reviewers_rejected_is_kept_by_a_setting() -> None:
    rejected = tree(node("q1", node("a1", review_result=False), node("a2", review_result=True), node("a3", review_result=None)))
    for rows in ([rejected], flat(rejected)):
        assert paths(parsed(*rows)) == ["q1 a2", "q1 a3"]
        assert paths(parsed(*rows, rejected="keep")) == ["q1 a1", "q1 a2", "q1 a3"]
    # A rejected answer is not one of the best, however it was ranked.
    ranked = tree(node("q1", node("a1", rank=0, review_result=False), node("a2", rank=1), node("a3", rank=2)))
    assert paths(parsed(ranked, top_answers=1)) == ["q1 a2"]


def test_languages_may_mix_within_those_that_are_wanted() -> None:
    mixed = tree(node("q1", node("a1", lang="es")))
    assert paths(parsed(mixed, languages=["en", "es"])) == ["q1 a1"]
    assert paths(parsed(mixed, languages=["en"])) == []
    assert paths(parsed(mixed)) == ["q1 a1"]


def test_the_best_ranked_answers_are_followed() -> None:
    answers = tree(node("q1", node("a1", rank=None), node("a2", rank=1), node("a3", rank=0), node("a4", rank=2)))
    for rows in ([answers], flat(answers)):
        items = parsed(*rows, top_answers=2)
        assert paths(items) == ["q1 a2", "q1 a3"]
        assert reasons(items, "filtered") == ["a message of the path is not among the best-ranked answers"] * 2
    assert paths(parsed(answers, top_answers=3)) == ["q1 a2", "q1 a3", "q1 a4"]
    assert len(paths(parsed(answers, top_answers=9))) == 4


def test_answers_without_a_rank_come_in_their_order() -> None:
    assert paths(parsed(tree(node("q1", node("a1"), node("a2"))), top_answers=1)) == ["q1 a1"]


def test_an_unwanted_answer_takes_no_place_among_the_best() -> None:
    answers = tree(node("q1", node("a1", rank=0, deleted=True), node("a2", rank=1)))
    assert paths(parsed(answers, top_answers=1)) == ["q1 a2"]


def test_users_replies_are_not_ranked() -> None:
    assert paths(parsed(tree(node("q1", node("a1", node("q2", node("a2")), node("q3", node("a3"))))), top_answers=1)) == [
        "q1 a1 q2 a2",
        "q1 a1 q3 a3",
    ]


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        (node("q1", node("q2", node("a1"))), "message 2: two user turns in a row"),
        (node("a1"), "message 1: the conversation begins with an assistant turn"),
        (node("q1", node("a1", text=" ")), "message 2 (assistant): the text is empty"),
        (node("q1", node("a1", role="moderator")), "message 2: unknown role 'moderator'"),
        (node("q1", node("a1", message_id=["a1"])), "message_id ['a1'] is not a string"),
        (node("q1", node("a1", replies="none")), "replies of message a1 are not a list"),
        (node("q1", ["a1"]), "message 2 of a path is not an object with 'role' and 'text'"),
    ],
)
def test_a_wrong_message_makes_the_whole_tree_wrong(root: dict[str, Any], reason: str) -> None:
    items = parsed(tree(root), tree(node("q8", node("a8"))))
    assert paths(items) == ["q8 a8"]
    assert reasons(items, "invalid")[0].startswith(reason)
    assert len(items) == 2


def test_a_wrong_message_that_is_not_wanted_does_no_harm() -> None:
    assert paths(parsed(tree(node("q1", node("a1"), node("a2", text="", deleted=True))))) == ["q1 a1"]


def test_flat_messages_that_belong_to_no_tree_are_wrong_rows() -> None:
    sound = flat(tree(node("q1", node("a1"))))
    lost = {**sound[1], "message_id": "a7", "parent_id": "q7"}
    below_lost = {**sound[0], "message_id": "q8", "parent_id": "a7"}
    own_parent = {**sound[1], "message_id": "a9", "parent_id": "a9"}
    items = parsed(*sound, lost, below_lost, own_parent)
    assert paths(items) == ["q1 a1"]
    assert [(item.row, item.reason) for item in items if isinstance(item, Dropped)] == [
        (3, "parent_id q7 leads to no first message of its tree"),
        (4, "parent_id a7 leads to no first message of its tree"),
        (5, "parent_id a9 leads to no first message of its tree"),
    ]


def test_a_message_id_that_comes_twice_is_a_wrong_row() -> None:
    sound = flat(tree(node("q1", node("a1"))))
    items = parsed(*sound, sound[1])
    assert paths(items) == ["q1 a1"]
    assert reasons(items, "invalid") == ["message_id a1 is that of row 2"]


def test_a_conversation_of_thousands_of_turns() -> None:
    last = message = node("q0")
    for number in range(1, 6000):
        last["replies"].append(node(f"{'qa'[number % 2]}{number}"))
        last = last["replies"][0]
    (item,) = parsed(tree(message))
    assert isinstance(item, Dialogue)
    assert len(item.messages) == 6000

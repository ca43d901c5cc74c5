"""Kind 1: what changes the meaning of a row is used, refused by row number, or told with a count. Never dropped in silence."""

from pathlib import Path
from typing import Any

import pytest
from tests.trainer.data.row_data import assistant, chat, parsed, reason, the_dialogue, tool, turns, user

from finetune_api.errors import InvalidData
from finetune_trainer.data.dialogues import Dropped
from finetune_trainer.data.formats import MULTI_TURN, NAMES, SINGLE_TURN
from finetune_trainer.data.meanings import ALL, COLUMNS, KEYS, MESSAGE_KEYS

SINGLE = {"prompt": "Q", "completion": "A"}


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_content_or_thinking_beside_content(key: str) -> None:
    told: list[str] = []
    assert the_dialogue(chat(user(), assistant(**{key: "Let me think."})), told).messages[1].reasoning == "Let me think."
    assert told == []


def test_reasoning_that_contradicts_itself_is_a_bad_row() -> None:
    assert the_dialogue(chat(user(), assistant(reasoning="R", thinking="R"))).messages[1].reasoning == "R"
    assert "'thinking' is another reasoning" in reason(chat(user(), assistant(reasoning="R", thinking="S")))
    assert "'reasoning' is of type list" in reason(chat(user(), assistant(reasoning=["R"])))


@pytest.mark.parametrize("name", ["images", "image", "videos", "audio"])
def test_image_in_the_text_and_an_images_column(name: str) -> None:
    found = reason(chat(user("<image>What is it?"), assistant(), **{name: ["cat.png"]}))
    assert found == f"column {name!r} is for models that see or hear; this trainer learns text"
    assert "is for models that see or hear" in reason(chat(user(**{name: ["cat.png"]}), assistant()))
    # An empty column is one of a data set of which other rows have pictures.
    assert turns(the_dialogue(chat(**{name: []})).messages) == [("user", "Q"), ("assistant", "A")]
    assert turns(the_dialogue(chat(user("<image> is a tag"), assistant())).messages)[0] == ("user", "<image> is a tag")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[(key, False) for key in ("train", "training", "trainable", "learn", "supervised", "loss", "weight", "include_in_loss")],
        *[("weight", value) for value in (0, 0.0, "0")],
        *[("train", value) for value in ("false", "False", "no", 0)],
        *[("loss_mask", 0), ("loss_weight", 0.0)],
        *[(key, False) for key in ("is_trainable", "shouldTrain", "do_train", "useForTraining", "computeLoss", "Train")],
        *[(key, True) for key in ("isMasked", "is_ignored")],
        *[(key, True) for key in ("mask", "masked", "ignore", "skip", "no_loss", "exclude_from_loss")],
        *[("mask", value) for value in (1, 1.0, "true")],
    ],
)
def test_a_message_flag_that_says_don_t_learn_this_in_any_of_its_common_spellings(key: str, value: Any) -> None:
    told: list[str] = []
    found = the_dialogue(chat(user(), assistant("A", **{key: value}), user(), assistant("B")), told)
    assert [message.learnt for message in found.messages] == [None, False, None, None]
    assert told == []


@pytest.mark.parametrize(("key", "value"), [("train", True), ("weight", 1), ("loss", "true"), ("mask", False), ("masked", 0)])
def test_a_message_flag_that_says_learn_this(key: str, value: Any) -> None:
    assert the_dialogue(chat(user(), assistant(**{key: value}))).messages[1].learnt is True


@pytest.mark.parametrize("value", [0.5, 2, "maybe", [True], {"a": 1}, -1])
def test_a_weight_that_is_neither_0_nor_1_is_refused(value: Any) -> None:
    found = reason(chat(user(), assistant(weight=value)))
    assert found.startswith(f"message 2 (assistant): 'weight' is {value!r}; a message is learnt or not")


def test_flags_that_contradict_each_other_and_flags_for_parts() -> None:
    assert "'mask' contradicts another flag" in reason(chat(user(), assistant(train=True, mask=True)))
    assert the_dialogue(chat(user(), assistant(train=True, mask=False, weight=None))).messages[1].learnt is True
    assert "'train_detail' chooses parts" in reason(chat(user(), assistant(train_detail=[{"begin_offset": 0}])))


def test_a_flag_on_a_user_message_means_nothing_and_is_told() -> None:
    told: list[str] = []
    rows = [chat(user(train=flag), assistant(train=True)) for flag in (True, False)]
    parsed(*rows, chat(), told=told)
    assert told == ["./data.jsonl: flags about training on messages that are not the assistant's change nothing (2 rows)"]


@pytest.mark.parametrize("column", ["system", "system_prompt", "system_message"])
@pytest.mark.parametrize(
    ("row", "form"),
    [
        (chat(), "messages"),
        (SINGLE, "prompt-completion"),
        ({"instruction": "Q", "output": "A"}, "alpaca"),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, "sharegpt"),
    ],
)
def test_context_of_a_row_in_other_columns_system_text(column: str, row: dict[str, Any], form: str) -> None:
    told: list[str] = []
    found = the_dialogue({**row, column: "Be brief."}, told, format=form)
    assert turns(found.messages) == [("system", "Be brief."), ("user", "Q"), ("assistant", "A")]
    assert told == [f"./data.jsonl: column {column!r} is read as the system message (1 rows)"]
    assert turns(the_dialogue({**row, column: ""}, format=form).messages)[0] == ("user", "Q")


def test_a_dialogue_s_own_system_message_comes_before_that_of_a_column() -> None:
    told: list[str] = []
    found = the_dialogue(chat({"role": "system", "content": "Own."}, user(), assistant(), system="Other."), told)
    assert turns(found.messages)[0] == ("system", "Own.")
    assert told == ["./data.jsonl: column 'system' is not read: the dialogue has a system message of its own (1 rows)"]


@pytest.mark.parametrize("history", [[["Q0", "A0"]], '[["Q0", "A0"]]'])
def test_context_of_a_row_in_other_columns_earlier_turns(history: Any) -> None:
    told: list[str] = []
    found = the_dialogue({"instruction": "Q", "output": "A", "history": history, "system": "S"}, told, format="alpaca")
    assert turns(found.messages) == [("system", "S"), ("user", "Q0"), ("assistant", "A0"), ("user", "Q"), ("assistant", "A")]
    assert "./data.jsonl: column 'history' is read as earlier turns (1 rows)" in told


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (7, "column 'history' is of type int, not a list of pairs"),
        ([["Q"]], "column 'history', pair 1 is ['Q'], not a question and its answer"),
        ([["Q", "A"], ["Q", None]], "column 'history', pair 2 is of type NoneType, not a string"),
    ],
)
def test_history_that_is_none_is_a_bad_row(history: Any, expected: str) -> None:
    assert reason({"instruction": "Q", "output": "A", "history": history}, format="alpaca").startswith(expected)


def test_reasoning_in_a_column_of_its_own() -> None:
    told: list[str] = []
    assert the_dialogue({**SINGLE, "reasoning": "R"}, told, format="prompt-completion").messages[1].reasoning == "R"
    assert told == ["./data.jsonl: column 'reasoning' is read as the reasoning of the answer (1 rows)"]


@pytest.mark.parametrize(
    ("column", "value", "told_about"),
    [
        ("context", "Facts.", "text beside the dialogue is not read"),
        ("instruction", "Do it.", "text beside the dialogue is not read"),
        ("history", [["Q", "A"]], "earlier turns beside the messages are not read"),
        ("chosen", "A", "preference data"),
        ("rejected", "B", "preference data"),
        ("weight", 0.5, "rows are not weighted one by one"),
        ("train", False, "what is learnt is said by each message"),
        ("mask", "User", "what is learnt is said by each message"),
        ("input_ids", [1], "tokens made elsewhere are not read beside a dialogue"),
        ("documents", ["d"], "a setting of a request"),
        ("chat_template_kwargs", {"enable_thinking": False}, "a setting of a request"),
    ],
)
def test_columns_that_are_told_with_a_count(column: str, value: Any, told_about: str) -> None:
    told: list[str] = []
    items = parsed(*[chat(**{column: value})] * 3, chat(**{column: None}), told=told)
    assert len(items) == 4
    assert told == [line for line in told if line.startswith(f"./data.jsonl: column {column!r} is not read: {told_about}")]
    assert told[0].endswith("(3 rows)")
    shown = [item.told for item in items if not isinstance(item, Dropped)]
    assert shown[0][0].startswith(f"column {column!r} is not read")
    assert shown[3] == ()


@pytest.mark.parametrize("key", ["refusal", "channel", "recipient", "prefix", "mood"])
def test_keys_of_messages_that_are_told_with_a_count(key: str) -> None:
    told: list[str] = []
    parsed(*[chat(user(), assistant(**{key: "x"}))] * 2, chat(user(), assistant(**{key: None})), told=told)
    assert len(told) == 1
    assert told[0].startswith(f"./data.jsonl: key {key!r} of messages is not read")
    assert told[0].endswith("(2 rows)")


def test_a_user_s_name_is_told_and_a_tool_s_is_used() -> None:
    told: list[str] = []
    found = the_dialogue(chat(user(name="ada"), assistant("<call>"), tool(name="f"), assistant()), told)
    assert [message.name for message in found.messages] == [None, None, "f", None]
    assert told == ["./data.jsonl: key 'name' of messages is not read: it belongs to answers of tools (1 rows)"]


def test_columns_that_have_nothing_to_do_with_the_dialogue_are_told_once() -> None:
    told: list[str] = []
    parsed(*[chat(id=1, source="web", score=0.5)] * 3, chat(id=2), told=told)
    assert told == ["./data.jsonl: columns that are not read: 'id', 'source', 'score' (4 rows)"]


def test_what_is_not_read_is_told_also_when_no_more_rows_are_asked_for() -> None:
    from finetune_api.finetunejob import DataSource
    from finetune_trainer.data.parsing import parse

    told: list[str] = []
    items = parse([("d", 1, chat(id=1))] * 9, DataSource(path="./d.jsonl", format="messages"), notice=told.append)
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert told == ["./d.jsonl: columns that are not read: 'id' (1 rows)"]


def test_preference_rows_have_the_true_reason() -> None:
    with pytest.raises(InvalidData, match=r"row 1: preference data \(chosen, rejected\), as for DPO"):
        parsed({"prompt": "Q", "chosen": "A", "rejected": "B"}, format="auto")
    assert reason({**SINGLE, "label": False}, format="prompt-completion").startswith(
        "column 'label' is false, which marks an answer as undesired"
    )
    told: list[str] = []
    the_dialogue({**SINGLE, "label": True}, told, format="prompt-completion")
    assert told == ["./data.jsonl: column 'label' is not read (1 rows)"]


@pytest.mark.parametrize("column", ["lang", "language"])
def test_filter_languages_en_with_format_auto_and_plain_messages_rows_in_french(column: str) -> None:
    french, english = chat(**{column: "fr"}), chat(**{column: "en"})
    dropped, kept = parsed(french, english, format="auto", filter={"languages": ["en"]})
    assert isinstance(dropped, Dropped)
    assert (dropped.reason, dropped.kind) == ("the row is in another language", "filtered")
    assert not isinstance(kept, Dropped)
    without = reason(chat(), format="auto", filter={"languages": ["en"]})
    assert without.startswith("no column 'lang' or 'language' with a text, which filter.languages needs")


def test_filter_top_answers_is_refused_where_there_are_no_trees() -> None:
    with pytest.raises(InvalidData, match=r"filter\.topAnswers ranks the answers of OASST trees, and the format is messages; remove it"):
        parsed(chat(), format="auto", filter={"topAnswers": 1})


def test_each_row_of_the_tables_says_what_it_is_for() -> None:
    for known in (*COLUMNS, *MESSAGE_KEYS):
        assert known.names
        assert bool(known.use) or bool(known.because), known
        assert known.meaning not in ("told", "refused") or known.because, known
        assert known.formats <= ALL
    assert not {"role", "content", "from", "value"} & KEYS.keys()
    assert set(MULTI_TURN) | set(SINGLE_TURN) < ALL


def test_each_column_of_the_table_is_used_told_or_refused() -> None:
    """No row of the table is without effect: a value there changes the dialogue, or is told, or makes the row wrong."""
    values: dict[str, Any] = {"tools": [{"name": "f"}], "system": "S", "history": [["Q", "A"]], "reasoning": "R", "undesired": False}
    for known in COLUMNS:
        if known.use in ("language", "tree"):
            continue
        for column in known.names:
            for form in sorted(known.formats & {"messages", "prompt-completion"}):
                base = chat() if form == "messages" else dict(SINGLE)
                told: list[str] = []
                (item,) = parsed({**base, column: values.get(known.use, "value")}, told=told, format=form)
                plain = the_dialogue(base, format=form)
                changed = not isinstance(item, Dropped) and (item.messages, item.tools) != (plain.messages, plain.tools)  # type: ignore[union-attr]
                assert isinstance(item, Dropped) or changed or told, (form, column)


def test_the_page_about_data_names_everything_that_is_known() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/data.md").read_text()
    for known in (*COLUMNS, *MESSAGE_KEYS):
        assert [name for name in known.names if f"`{name}`" not in page] == []
    assert [name for name in NAMES if f"`{name}`" not in page] == []

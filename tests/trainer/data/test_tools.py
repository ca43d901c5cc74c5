"""Tools, calls and their answers in every spelling become the words of Transformers; what is no tool or call is a bad row."""

import json
import time
from typing import Any

import pytest
from tests.trainer.data.row_data import CALL, WEATHER, assistant, chat, parsed, reason, the_dialogue, tool, turns, user

from finetune_trainer.data.dialogues import Dropped

BARE = WEATHER["function"]
ASKED = (user(), assistant("I will look.", tool_calls=[CALL]), tool(), assistant("12 degrees."))


def test_assistant_message_with_content_and_tool_calls_and_a_tools_column() -> None:
    """Kind 1: `I will look.` and its call are learnt together, and the tools are there for the template."""
    told: list[str] = []
    found = the_dialogue(chat(*ASKED, tools=[WEATHER]), told)
    assert found.tools == (WEATHER,)
    assert found.messages[1].content == "I will look."
    assert found.messages[1].tool_calls == (CALL,)
    assert turns(found.messages)[2:] == [("tool", "12 degrees"), ("assistant", "12 degrees.")]
    assert told == []


@pytest.mark.parametrize("column", ["tools", "functions"])
@pytest.mark.parametrize(
    "tools",
    [
        [WEATHER],
        [BARE],
        json.dumps([WEATHER]),
        json.dumps([BARE]),
        [json.dumps(WEATHER)],
        json.dumps(WEATHER),
        WEATHER,
        [BARE | {"type": "function"}],
    ],
)
def test_tools_in_every_spelling(column: str, tools: Any) -> None:
    assert the_dialogue(chat(**{column: tools})).tools == (WEATHER,)


def test_keys_of_tools_stay_in_their_order_for_templates_write_it() -> None:
    function = {"description": "d", "name": "f", "parameters": {"properties": {"b": {}, "a": {}}, "type": "object"}}
    for entry in ({"function": function, "type": "function"}, {"type": "function", "function": function}):
        assert json.dumps(the_dialogue(chat(tools=[entry])).tools[0]) == json.dumps(entry)
    assert json.dumps(the_dialogue(chat(tools=[{"function": function}])).tools[0]) == json.dumps({"type": "function", "function": function})


@pytest.mark.parametrize("tools", [None, [], "", {}])
def test_no_tools(tools: Any) -> None:
    assert the_dialogue(chat(tools=tools)).tools == ()


def test_parameters_that_are_json_text_are_parsed() -> None:
    tools = [{"type": "function", "function": {**BARE, "parameters": json.dumps(BARE["parameters"])}}]
    assert the_dialogue(chat(tools=tools)).tools == (WEATHER,)


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ("weather, time", "column 'tools' is text that is no JSON (Expecting value: line 1 column 1 (char 0)): 'weather, time'"),
        (7, "column 'tools' is of type int, not a list of functions: 7"),
        ([7], "column 'tools', tool 1 is of type int, not a function's schema"),
        ([WEATHER, {"foo": 1}], "column 'tools', tool 2 has no 'name': not a function's schema: {'foo': 1}"),
        ([{"name": ""}], "column 'tools', tool 1 has no 'name'"),
        ([{"type": "web_search"}], "column 'tools', tool 1 is of type 'web_search'; only functions can be learnt"),
        ([{"name": "f", "parameters": "text"}], "column 'tools', tool 1, parameters is text that is no JSON"),
        ([{"name": "f", "parameters": [1]}], "column 'tools', tool 1 (f): its parameters are no JSON schema of an object: [1]"),
        ([{"name": "f", "parameters": {"type": "string"}}], "column 'tools', tool 1 (f): its parameters are no JSON schema"),
        ([{"name": "f", "parameters": {"properties": []}}], "column 'tools', tool 1 (f): its parameters are no JSON schema"),
        ([{"name": "f", "parameters": {"x": float("nan")}}], "column 'tools', tool 1 can't be written as JSON"),
    ],
)
def test_a_tools_column_that_is_no_json_schema(tools: Any, expected: str) -> None:
    assert reason(chat(tools=tools)).startswith(expected)


@pytest.mark.parametrize(
    "keys",
    [
        {"tool_calls": [CALL]},
        {"tool_calls": [CALL["function"]]},
        {"tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}]},
        {"tool_calls": [{"name": "weather", "parameters": {"city": "Ulm"}}]},
        {"tool_calls": json.dumps([CALL])},
        {"tool_calls": [json.dumps(CALL)]},
        {"function_call": CALL["function"]},
        {"function_call": {"name": "weather", "arguments": '{"city": "Ulm"}'}},
        {"function_call": json.dumps(CALL["function"]), "tool_calls": None},
    ],
)
@pytest.mark.parametrize("content", [None, "", "I will look.", "missing"])
def test_calls_in_every_spelling(keys: dict[str, Any], content: str | None) -> None:
    message = assistant(content, **keys)
    if content == "missing":
        del message["content"]
    found = the_dialogue(chat(user(), message, tool(), assistant()))
    assert found.messages[1].tool_calls == (CALL,)
    assert found.messages[1].content == ("I will look." if content == "I will look." else "")


@pytest.mark.parametrize(("arguments"), [{}, None, "", "{}"])
def test_calls_without_arguments(arguments: Any) -> None:
    message = assistant(None, tool_calls=[{"name": "now", "arguments": arguments}])
    found = the_dialogue(chat(user(), message))
    assert found.messages[1].tool_calls == ({"type": "function", "function": {"name": "now", "arguments": {}}},)


def test_ids_of_calls_and_their_answers_are_kept() -> None:
    calls = [{**CALL, "id": "c1"}, {**CALL, "id": "c2"}]
    answers = [tool("1", tool_call_id="c1", name="weather"), tool("", tool_call_id="c2")]
    found = the_dialogue(chat(user(), assistant(None, tool_calls=calls), *answers, assistant()))
    assert found.messages[1].tool_calls == tuple(calls)
    assert [(message.tool_call_id, message.name, message.content) for message in found.messages[2:4]] == [
        ("c1", "weather", "1"),
        ("c2", None, ""),
    ]


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ("no JSON", "message 2 (assistant) is text that is no JSON"),
        (7, "message 2 (assistant) is of type int, not a list of calls"),
        ([7], "message 2 (assistant), call 1 is of type int, not a call"),
        ([CALL, {"function": {}}], "message 2 (assistant), call 2 has no 'name'"),
        ([{"name": "f", "arguments": "{'a': 1}"}], "message 2 (assistant), call 1 (f): arguments is text that is no JSON"),
        (
            [{"name": "f", "arguments": '{"a": NaN}'}],
            "message 2 (assistant), call 1 (f): arguments is text that is no JSON (NaN is no JSON)",
        ),
        ([{"name": "f", "arguments": {"a": float("inf")}}], "message 2 (assistant), call 1 can't be written as JSON"),
        ([{"name": "f", "arguments": "[1]"}], "message 2 (assistant), call 1 (f): arguments are of type list, not an object: [1]"),
        ([{"name": "f", "arguments": 7}], "message 2 (assistant), call 1 (f): arguments are of type int, not an object: 7"),
        ([{"name": "f", "id": 7}], "message 2 (assistant), call 1: its id is of type int, not a string"),
        ([{"type": "custom", "name": "f"}], "message 2 (assistant), call 1 is of type 'custom'; only calls of functions can be learnt"),
        ([{"name": "f", "arguments": {"a": "\ud83d"}}], "message 2 (assistant), call 1: half of a surrogate pair"),
    ],
)
def test_a_call_that_is_none_is_a_bad_row_that_names_message_and_call(calls: Any, expected: str) -> None:
    found = reason(chat(user(), assistant("A", tool_calls=calls)))
    assert found.startswith(expected)
    assert found.endswith("(column 'messages')")


def test_only_an_assistant_calls() -> None:
    assert reason(chat(user(tool_calls=[CALL]), assistant())).startswith(
        "message 1 (user): 'tool_calls', and only an assistant calls tools"
    )


def test_sharegpt_with_roles_function_call_and_observation() -> None:
    """As glaive, ToolBench and LLaMA-Factory write it: the call is a message of its own, its value JSON text."""
    values = [
        ("human", "Q"),
        ("function_call", json.dumps({"name": "weather", "arguments": {"city": "Ulm"}})),
        ("observation", "12"),
        ("gpt", "12 degrees."),
    ]
    row = {"conversations": [{"from": role, "value": value} for role, value in values], "tools": json.dumps([BARE]), "system": "Be brief."}
    found = the_dialogue(row, format="sharegpt")
    assert turns(found.messages) == [
        ("system", "Be brief."),
        ("user", "Q"),
        ("assistant", ""),
        ("tool", "12"),
        ("assistant", "12 degrees."),
    ]
    assert found.messages[2].tool_calls == (CALL,)
    assert found.tools == (WEATHER,)


@pytest.mark.parametrize("role", ["tool", "function", "observation", "tool_response", "function_response", "Tool"])
def test_names_of_tools_answers(role: str) -> None:
    assert the_dialogue(chat(*ASKED[:2], {"role": role, "content": "12"}, assistant())).messages[2].role == "tool"


def test_calls_written_as_messages_join_the_assistant_before_them() -> None:
    call = {"role": "function_call", "content": json.dumps(CALL["function"])}
    found = the_dialogue(chat(user(), assistant("I will look."), call, call, tool("1"), tool("2"), assistant()))
    assert turns(found.messages)[1:4] == [("assistant", "I will look."), ("tool", "1"), ("tool", "2")]
    assert found.messages[1].tool_calls == (CALL, CALL)
    # The number of a message is the row's.
    assert reason(chat(user(), call, call, tool(), user())).startswith("message 5: a user turn, while the assistant")


def test_a_function_call_message_without_json_is_a_bad_row() -> None:
    row = chat(user(), {"role": "function_call", "content": "weather(Ulm)"}, tool(), assistant())
    assert reason(row).startswith("message 2 (assistant) is text that is no JSON")


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user(), tool(), assistant()], "message 2: an answer of a tool, and no assistant turn before it"),
        ([tool(), user(), assistant()], "message 1: an answer of a tool, and no assistant turn before it"),
        (
            [user(), assistant("", tool_calls=[CALL]), user(), assistant()],
            "message 3: a user turn, while the calls before it have no answer",
        ),
        ([user(), assistant("", tool_calls=[CALL]), tool(), user(), assistant()], "message 4: a user turn, while the assistant has not"),
        ([user(), assistant(), assistant()], "message 3: two assistant turns in a row"),
        ([user(), assistant(" ", tool_calls=[])], "message 2 (assistant): the text is empty"),
    ],
)
def test_the_order_of_tool_turns(messages: list[Any], expected: str) -> None:
    assert reason(chat(*messages), refuse_leading=True).startswith(expected)


@pytest.mark.parametrize(
    "messages",
    [
        [user(), assistant("", tool_calls=[CALL]), tool(), tool(), assistant(), user(), assistant()],
        [user(), assistant("", tool_calls=[CALL]), assistant()],
        [user(), assistant("", tool_calls=[CALL]), tool(), assistant("", tool_calls=[CALL]), tool(), assistant()],
        [user(), assistant("", tool_calls=[CALL])],
        [user(), assistant("<tool_call>{}</tool_call>"), tool(), assistant()],
    ],
)
def test_orders_of_tool_turns_that_are_right(messages: list[Any]) -> None:
    assert len(the_dialogue(chat(*messages)).messages) == len(messages)


def test_a_trailing_answer_of_a_tool_is_trimmed_and_told() -> None:
    dropped, _ = parsed(chat(user(), assistant("", tool_calls=[CALL]), tool()))
    assert isinstance(dropped, Dropped)
    assert (dropped.reason, dropped.kind) == ("trailing answer of a tool", "trimmed")


def test_a_row_with_10_000_tool_calls() -> None:
    start = time.process_time()
    found = the_dialogue(chat(user(), assistant("", tool_calls=[CALL] * 10_000), tool(), assistant()))
    assert len(found.messages[1].tool_calls) == 10_000
    assert time.process_time() - start < 5

"""Functions that an assistant could call, and its calls of them, in the words of Transformers whatever the row's words are.

In: the value of a `tools` or `functions` column, of `tool_calls` or `function_call`, or the text of a ShareGPT `function_call` message.
Out: {"type": "function", "function": {...}} each. Raises InvalidRow naming the tool or call, counted from 1.
"""

from typing import Any

from finetune_trainer.data.dialogues import InvalidRow, Tool
from finetune_trainer.data.values import check_json, excerpt, object_of

Call = dict[str, Any]


def tools_of(value: Any, column: str) -> tuple[Tool, ...]:
    """The functions of a row: a list of schemas, of their JSON texts, or the JSON text of a list."""
    found = object_of(value, f"column {column!r}")
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, list):
        raise InvalidRow(f"column {column!r} is of type {type(found).__name__}, not a list of functions: {excerpt(found)}")
    return tuple(_tool(entry, f"column {column!r}, tool {number}") for number, entry in enumerate(found, start=1))


def _tool(entry: Any, what: str) -> Tool:
    entry = object_of(entry, what)
    if not isinstance(entry, dict):
        raise InvalidRow(f"{what} is of type {type(entry).__name__}, not a function's schema")
    if entry.get("type", "function") != "function":
        raise InvalidRow(f"{what} is of type {entry['type']!r}; only functions can be learnt")
    function = object_of(entry.get("function", entry), what)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise InvalidRow(f"{what} has no 'name': not a function's schema: {excerpt(entry)}")
    parameters = object_of(function.get("parameters"), f"{what}, parameters")
    if not _is_schema(parameters):
        raise InvalidRow(f"{what} ({function['name']}): its parameters are no JSON schema of an object: {excerpt(parameters)}")
    check_json(function, what)
    written = {**function, "parameters": parameters} if parameters is not function.get("parameters") else function
    if "function" not in entry:
        return {"type": "function", "function": _bare(written)}
    # The order of keys is the row's: templates write it.
    return {**({} if "type" in entry else {"type": "function"}), **entry, "function": written}


def _bare(function: dict[str, Any]) -> dict[str, Any]:
    """Without a `type` that belongs around it."""
    return {name: value for name, value in function.items() if name != "type"}


def _is_schema(parameters: Any) -> bool:
    """Whether it describes an object's properties; none at all is a function without parameters."""
    if parameters is None:
        return True
    if not isinstance(parameters, dict) or (parameters.get("type", "object") != "object" and not isinstance(parameters["type"], dict)):
        return False
    return isinstance(parameters.get("properties", {}), dict)


def calls_of(value: Any, what: str) -> tuple[Call, ...]:
    """The calls of a message: a list of them, one alone, or the JSON text of either."""
    found = object_of(value, what)
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, list):
        raise InvalidRow(f"{what} is of type {type(found).__name__}, not a list of calls: {excerpt(found)}")
    return tuple(_call(entry, f"{what}, call {number}") for number, entry in enumerate(found, start=1))


def _call(entry: Any, what: str) -> Call:
    entry = object_of(entry, what)
    if not isinstance(entry, dict):
        raise InvalidRow(f"{what} is of type {type(entry).__name__}, not a call")
    if entry.get("type", "function") != "function":
        raise InvalidRow(f"{what} is of type {entry['type']!r}; only calls of functions can be learnt")
    function = object_of(entry.get("function", entry), what)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise InvalidRow(f"{what} has no 'name': {excerpt(entry)}")
    call: Call = {"type": "function", "function": {"name": function["name"], "arguments": _arguments(function, what)}}
    identity = entry.get("id")
    if identity is not None:
        if not isinstance(identity, str):
            raise InvalidRow(f"{what}: its id is of type {type(identity).__name__}, not a string")
        call["id"] = identity
    check_json(call, what)
    return call


def _arguments(function: dict[str, Any], what: str) -> dict[str, Any]:
    """An object: what the template writes as JSON. Text is parsed, or it would be written as a string inside JSON."""
    written = function.get("arguments", function.get("parameters"))
    if written is None or written == "":
        return {}
    what = f"{what} ({function['name']}): arguments"
    arguments = object_of(written, what)
    if not isinstance(arguments, dict):
        raise InvalidRow(f"{what} are of type {type(arguments).__name__}, not an object: {excerpt(arguments)}")
    return arguments

import pytest

from finetune_api.errors import InvalidSpec
from finetune_api.yaml_text import yaml_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        (".inf", float("inf")),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("-7", -7),
        ("1_000", "1_000"),
        ("yes", "yes"),
        ("on", "on"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("null", None),
        ("2026-01-02", "2026-01-02"),
        ("12:30:45", "12:30:45"),
        ("=", "="),
        ("'2e-5'", "2e-5"),
        ("", None),
        ("# only a comment\n", None),
        ("---\na: 1\n---\n", {"a": 1}),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    found = yaml_value(text, "job.yaml")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n---\nb: 2", "job.yaml: a second document begins at line 3; keep one FineTuneJob in a file"),
        ("a:\n  b: 1\n  b: 2", "a.b: is given twice, at lines 2 and 3; keep one"),
        ("a: [{b: 1, b: 2}]", "a[0].b: is given twice, at lines 1 and 1; keep one"),
        ("a: &x [*x]", "a[0]: an alias at line 1 contains itself; write the value out"),
        ("? [1]\n: 2", "the document: a key at line 1 is not a plain word; use a field's name as the key"),
        (
            "a: b: c",
            "job.yaml: is not YAML at line 1, column 5: mapping values are not allowed here; check indentation, quotes and colons there",
        ),
        ("a:\n\tb: 1", "job.yaml: is not YAML at line 2, column 1: found character '\\t' that cannot start any token; indent with spaces"),
        ("[" * 2_000, "job.yaml: is nested too deeply; a FineTuneJob has at most a dozen levels"),
    ],
)
def test_what_is_refused_names_the_place(text, message):
    with pytest.raises(InvalidSpec) as caught:
        yaml_value(text, "job.yaml")
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["!!python/object/apply:os.getcwd []", "a: \x00", "a: !!binary ''\nb: !custom 1", "*missing"])
def test_anything_else_is_refused_too(text):
    with pytest.raises(InvalidSpec, match="is not YAML"):
        yaml_value(text, "job.yaml")


def test_all_repeated_keys_are_reported():
    with pytest.raises(InvalidSpec) as caught:
        yaml_value("a: 1\na: 2\nb: {c: 1, c: 2}", "job.yaml")
    assert [problem.field for problem in caught.value.problems] == ["a", "b.c"]


@pytest.mark.parametrize(
    ("value", "kind"),
    [("!!int b", "int"), ("!!float x", "float"), ("!!bool maybe", "bool"), ("!!timestamp 1", "timestamp"), ("9" * 5000, "int")],
)
def test_a_value_that_is_not_what_its_tag_says_is_refused_with_its_line(value: str, kind: str) -> None:
    with pytest.raises(InvalidSpec, match=rf"job\.yaml: is not YAML at line 2, column 4: found a value that can't be read as {kind}"):
        yaml_value(f"a: 1\nb: {value}\n", "job.yaml")

"""The file of answers: what a run that was killed leaves, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.errors import InvalidData, RunConflict
from finetune_assistant.answers.samples_file import keys_of_rows, opened, replaced_fields, settings_path
from finetune_assistant.prompts.prompt_rows import read_prompts

SETTINGS = {"model": "m", "seed": 42, "temperature": None}


def added(text: str, **more: Any) -> dict[str, Any]:
    return {"answer": text, "model": "m", "finish_reason": "end", "prompt_tokens": 1, "new_tokens": 1, **more}


def write(path: Path, *rows: dict[str, Any]) -> None:
    with opened(path, SETTINGS) as file:
        file.append(rows)


def test_answers_that_are_there_are_found_again_by_what_they_answer(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "a", "kind": 2}\n')
    wanted = list(keys_of_rows(read_prompts(str(prompts)), 2))
    assert len({key for key, _ in wanted}) == 6
    path = tmp_path / "out.jsonl"
    write(
        path, {"prompt": "b", **added("B0", sample=0)}, {"prompt": "a", **added("A0", sample=0)}, {"prompt": "a", **added("A1", sample=1)}
    )
    with opened(path, SETTINGS) as file:
        found = [file.done[key]["answer"] if key in file.done else None for key, _ in wanted]
    # Rows that ask the same are the same question: the first answers are the first row's.
    assert found == ["A0", "A1", "B0", None, None, None]


def test_a_last_line_that_was_cut_is_taken_off(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, {"prompt": "a", **added("A")}, {"prompt": "b", **added("B")})
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with opened(path, SETTINGS) as file:
        assert [answer["answer"] for answer in file.done.values()] == ["A"]
        file.append([{"prompt": "b", **added("B")}])
    assert path.read_bytes() == whole


def test_a_line_that_is_no_answer_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, {"prompt": "a", **added("A")})
    for line in ('{"prompt": "x"}', "[]", "nonsense"):
        content = path.read_text() + line + "\n"
        (tmp_path / "other.jsonl").write_text(content)
        settings_path(tmp_path / "other.jsonl").write_text(json.dumps(SETTINGS))
        with (
            pytest.raises(InvalidData, match=r"row 2: no answer of `finetune generate`; give another file, or --overwrite"),
            opened(tmp_path / "other.jsonl", SETTINGS),
        ):
            pass
        assert (tmp_path / "other.jsonl").read_text() == content


def test_other_settings_are_refused_by_name_unless_the_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, {"prompt": "a", **added("A")})
    changed = {**SETTINGS, "seed": 7, "system": "s"}
    with (
        pytest.raises(InvalidData, match='made with other settings: seed was 42 and is 7, system was null and is "s"'),
        opened(path, changed),
    ):
        pass
    assert path.read_text()
    with opened(path, changed, overwrite=True) as file:
        assert file.done == {}
    assert json.loads(settings_path(path).read_text()) == changed
    assert path.read_text() == ""


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text("mine\n")
    with pytest.raises(InvalidData, match=r"notes\.jsonl is there, and notes\.jsonl\.settings\.json, .* is not"), opened(path, SETTINGS):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["notes.jsonl"]


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with opened(path, SETTINGS), pytest.raises(RunConflict, match=r"process \d+ is writing it; wait for its end"), opened(path, SETTINGS):
        pass
    write(path, {"prompt": "a", **added("A")})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.settings.json"]


def test_a_folder_that_isnt_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"there is no folder .*none; make it"), opened(tmp_path / "none" / "out.jsonl", SETTINGS):
        pass


def test_fields_that_answers_replace_are_named(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a", "kind": 1}\n{"prompt": "b", "answer": "old", "model": "x"}\n')
    assert replaced_fields(read_prompts(str(prompts))) == ["answer", "model"]

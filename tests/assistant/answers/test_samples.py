"""Answers of several models to the same prompts: left out where they don't fit, not asked again, side by side."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.assistant.tiny_models import TEMPLATE, saved_folder

from finetune_api.errors import InvalidData
from finetune_assistant.answers.samples import Asked, Questions, answer_all, side_by_side
from finetune_assistant.inference.sampling import Sampling
from finetune_assistant.prompts.prompt_rows import SAMPLE_PROMPTS, read_prompts

GREEDY = Sampling(greedy=True, max_new_tokens=4)


def quiet(_what: str) -> Callable[[int, int], None]:
    return lambda _done, _total: None


def asked(folder: Path, key: str = "base") -> Asked:
    return Asked(key=key, name=key, folder=folder, digest=f"{key} weights")


def questions(tmp_path: Path, *texts: str) -> Questions:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return Questions(name="greedy", rows=read_prompts(str(path)), sampling=GREEDY)


def test_ours_are_read() -> None:
    rows = read_prompts(str(SAMPLE_PROMPTS))
    assert len({row.fields["id"] for row in rows}) == len({row.messages for row in rows}) == len(rows) == 16


def test_prompts_without_room_are_left_out_and_told(tmp_path: Path) -> None:
    folder = saved_folder(tmp_path / "model", chat_template=TEMPLATE, max_position_embeddings=64)
    told: list[str] = []
    two = questions(tmp_path, "Why?", "long " * 100)
    answer_all(asked(folder), [two], tmp_path / "answers", batch_size=2, progress=quiet, note=told.append)
    assert told == ["base is not asked 1 of 2 prompts (greedy), which don't fit its window of 64 tokens"]
    assert [row["prompt"] for row in side_by_side({"base": two.file(tmp_path / "answers", "base")})] == ["Why?"]
    with pytest.raises(InvalidData, match="base: none of the prompts fits its window"):
        answer_all(asked(folder), [questions(tmp_path, "long " * 100)], tmp_path / "others", batch_size=1, progress=quiet, note=told.append)


def test_a_base_model_with_a_small_window_gets_the_short_preamble(tmp_path: Path) -> None:
    folder = saved_folder(tmp_path / "model", max_position_embeddings=512)  # `general` alone takes 1,247 of this tokenizer's tokens
    told: list[str] = []
    one = questions(tmp_path, "Why?")
    answer_all(asked(folder), [one], tmp_path / "answers", batch_size=1, progress=quiet, note=told.append)
    assert told == ["base has no chat template, so it answers as a base model, by dialogue prompting"]
    [row] = [json.loads(line) for line in one.file(tmp_path / "answers", "base").read_text().splitlines()]
    assert row["prompt_tokens"] < 256


def test_what_is_answered_is_not_asked_again_wherever_the_weights_lie(tmp_path: Path) -> None:
    folder = saved_folder(tmp_path / "model", chat_template=TEMPLATE)
    saved: list[str] = []
    two = questions(tmp_path, "Why?", "How?")
    first, answers = asked(folder), tmp_path / "answers"
    answer_all(first, [two], answers, batch_size=1, progress=quiet, note=print, saved=lambda: saved.append("."))
    whole = two.file(answers, "base").read_bytes()
    # Killed before the last answer, in another pod: the files are new there, and have other times.
    (answers / "base.complete").unlink()
    two.file(answers, "base").write_bytes(whole.splitlines(keepends=True)[0])
    for path in folder.glob("*.safetensors"):
        path.touch()
    steps: list[tuple[int, int]] = []
    answer_all(first, [two], answers, batch_size=1, progress=lambda _what: lambda *step: steps.append(step), note=print, saved=lambda: None)
    assert (steps, two.file(answers, "base").read_bytes()) == ([(1, 2), (2, 2)], whole)
    # All are there: not even the model is looked for.
    answer_all(asked(tmp_path / "gone"), [two], answers, batch_size=1, progress=quiet, note=print)
    assert saved == ["."]


def test_side_by_side_has_what_all_answered(tmp_path: Path) -> None:
    files = {}
    for name, prompts in (("tuned", ["Why?", "How?"]), ("base", ["How?", "When?"])):
        files[name] = tmp_path / name
        files[name].write_text("".join(json.dumps({"prompt": prompt, "answer": f"{name}: {prompt}"}) + "\n" for prompt in prompts))
    assert side_by_side(files) == [{"prompt": "How?", "tuned": "tuned: How?", "base": "base: How?"}]
    files["base"].write_text(json.dumps({"prompt": "When?", "answer": ""}) + "\n")
    with pytest.raises(InvalidData, match="no prompt is answered in all of them"):
        side_by_side(files)


def test_other_weights_answer_anew(tmp_path: Path) -> None:
    """Another checkpoint of the same run is another model, whatever the files of the one before say."""
    folder, answers = saved_folder(tmp_path / "model", chat_template=TEMPLATE), tmp_path / "answers"
    one = questions(tmp_path, "Why?")
    answer_all(asked(folder), [one], answers, batch_size=1, progress=quiet, note=print)
    steps: list[tuple[int, int]] = []
    other = replace(asked(folder), digest="other weights")
    answer_all(other, [one], answers, batch_size=1, progress=lambda _what: lambda *step: steps.append(step), note=print)
    assert steps == [(0, 1), (1, 1)]

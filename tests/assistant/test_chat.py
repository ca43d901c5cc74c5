"""Chat: streaming, stopping, and the command around it. Most run on a scripted model, one on a real export."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from tests.exported_models import ModelWeights, base_folder, source_model, training_run

from finetune_api.errors import InvalidData, InvalidModel
from finetune_assistant.chat import Chat, Sampling, load, model_place
from finetune_cli import app
from finetune_cli.chat import chat, printable
from finetune_trainer.data.dialogues import Message

END, OLD_VOCABULARY = 3, 833


class Letters:
    """A prompter whose tokens are bytes, and 3 ends an answer."""

    stop_ids = [END]  # noqa: RUF012

    def encode(self, messages: Any) -> list[int]:
        return [byte for message in messages for byte in message.content.encode()]

    def decode(self, ids: Any) -> str:
        return bytes(token for token in ids if token != END).decode(errors="replace")


class Scripted:
    """What Chat uses of a transformers model: plays `script`, and for ever its last token when `endless`."""

    device = "cpu"

    def __init__(self, script: bytes, *, endless: bool = False, window: int = 64, fails: bool = False) -> None:
        self.script, self.endless, self.fails = script, endless, fails
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=window))
        from transformers import GenerationConfig

        self.generation_config = GenerationConfig(
            max_new_tokens=16, eos_token_id=[END], do_sample=True, temperature=0.2, top_k=50, top_p=0.95
        )
        self.asked: list[tuple[list[int], Any]] = []

    def _tokens(self) -> Iterator[int]:
        yield from self.script
        while self.endless:
            time.sleep(0.001)
            yield self.script[-1]

    def generate(self, input_ids: Any, *, generation_config: Any, stopping_criteria: Any, streamer: Any, attention_mask: Any) -> None:
        import torch

        self.asked.append((input_ids[0].tolist(), generation_config))
        streamer.put(input_ids)
        if self.fails:
            raise RuntimeError("out of memory")
        for token in self._tokens():
            streamer.put(torch.tensor([token]))
            if token in generation_config.eos_token_id or stopping_criteria(input_ids, None).all():
                break
        streamer.end()


def test_an_answer_streams_and_becomes_part_of_the_dialogue() -> None:
    pieces: list[str] = []
    talk = Chat(Scripted(b"hi you" + bytes([END])), Letters(), system="sys ")
    answer = talk.ask("hello", pieces.append)
    assert "".join(pieces) == answer.text == "hi you"
    assert len(pieces) > 1
    assert (answer.stopped, answer.prompt_tokens, answer.new_tokens, answer.left_out) == ("end", 9, 7, 0)
    assert [message.role for message in talk.messages] == ["system", "user", "assistant"]
    talk.reset()
    assert talk.messages == [Message(role="system", content="sys ")]


def test_a_character_of_several_tokens_comes_whole() -> None:
    pieces: list[str] = []
    Chat(Scripted("a🙂é".encode() + bytes([END])), Letters()).ask("x", pieces.append)
    assert pieces[:3] == ["a", "🙂", "é"]


def test_an_answer_that_never_becomes_whole_text_is_still_given() -> None:
    assert Chat(Scripted(b"a\xf0\x9f"), Letters()).ask("x").text == "a\ufffd"


def test_ctrl_c_ends_the_answer_and_not_the_session() -> None:
    def interrupt(_text: str) -> None:
        raise KeyboardInterrupt

    model = Scripted(b"for ever", endless=True)
    talk = Chat(model, Letters())
    answer = talk.ask("x", interrupt)
    assert answer.stopped == "interrupted"
    assert talk.messages[-1].role == "assistant"
    model.endless, model.script = False, b"ok" + bytes([END])
    assert talk.ask("y").text == "ok"


def test_an_answer_without_an_end_was_cut() -> None:
    assert Chat(Scripted(b"abc"), Letters()).ask("x").stopped == "length"


def test_old_turns_leave_the_window_and_a_question_that_is_too_long_changes_nothing() -> None:
    talk = Chat(Scripted(b"0123456789" + bytes([END]), window=48), Letters())
    assert [talk.ask("q" * 10).left_out for _ in range(3)] == [0, 0, 2]
    before = list(talk.messages)
    with pytest.raises(InvalidData, match="the question is 99 tokens long"):
        talk.ask("q" * 99)
    assert talk.messages == before


def test_a_failure_in_the_thread_reaches_the_caller() -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        Chat(Scripted(b"", fails=True), Letters()).ask("x")


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), {"do_sample": True, "temperature": 0.2, "top_k": 50, "max_new_tokens": 16}),
        (Sampling(greedy=True), {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0}),
        (Sampling(temperature=0.0), {"do_sample": False, "temperature": 1.0}),
        (Sampling(temperature=0.9, max_new_tokens=5), {"do_sample": True, "temperature": 0.9, "max_new_tokens": 5, "top_k": 50}),
    ],
)
def test_sampling_wins_over_the_generation_config(sampling: Sampling, expected: dict[str, Any]) -> None:
    model = Scripted(bytes([END]))
    Chat(model, Letters(), sampling=sampling).ask("x")
    used = model.asked[0][1]
    assert {name: getattr(used, name) for name in expected} == expected
    assert model.generation_config.max_new_tokens == 16


# A real export


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from finetune_trainer.publishing.card import public_job
    from finetune_trainer.publishing.export import describe, export

    folder = tmp_path_factory.mktemp("runs") / "demo"
    base = base_folder(folder / "tiny", "gpt_bigcode")
    run = training_run(base, generation={"maxNewTokens": 12, "repetitionPenalty": 1.0})
    (folder / "run.json").write_text(run.to_json())
    export(run, ModelWeights(source_model(base, rows=OLD_VOCABULARY + 4)), step=3, base=base, folder=folder / "model")
    describe(folder / "model", {"finetunejob.yaml": public_job(run)})
    return folder


def test_a_greedy_answer_is_what_plain_transformers_generates(run_folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    answer = load(str(run_folder), sampling=Sampling(greedy=True)).ask("Hello?")
    tokenizer = AutoTokenizer.from_pretrained(run_folder / "model")
    model = AutoModelForCausalLM.from_pretrained(run_folder / "model")
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello?"}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    assert answer.prompt_tokens == inputs["input_ids"].shape[1]
    with torch.no_grad():
        whole = model.generate(**inputs, do_sample=False, temperature=None, top_k=None, top_p=None, max_new_tokens=12)
    expected = whole[0, inputs["input_ids"].shape[1] :]
    assert answer.new_tokens == len(expected)
    assert answer.text == tokenizer.decode(expected, skip_special_tokens=True)


def test_a_seed_makes_sampled_answers_repeatable(run_folder: Path) -> None:
    sampling = Sampling(temperature=5.0, seed=11)
    first, second = (load(str(run_folder / "model"), sampling=sampling).ask("Hello?").text for _ in range(2))
    assert first == second


LOAD_FROM_HUB = """
from finetune_assistant.chat import Sampling, load
print(load("org/demo", sampling=Sampling(greedy=True)).ask("Hello?").text, end="")
"""


def test_a_published_model_answers_from_the_hub(run_folder: Path, tmp_path: Path) -> None:
    from tests.trainer.hub_server import HubServer

    from finetune_api.finetunejob import HubPublication
    from finetune_trainer.publishing.hub import publish_to_hub

    server = HubServer()
    try:
        publish_to_hub(run_folder / "model", HubPublication(repository="org/demo"), "hf_write", endpoint=server.url)
        # The address is read when huggingface_hub is imported: a process of its own.
        environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_TOKEN": "hf_write", "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", LOAD_FROM_HUB], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
    finally:
        server.close()
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == load(str(run_folder), sampling=Sampling(greedy=True)).ask("Hello?").text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "is no folder, and no name of a model on the Hub"),
        ("nowhere", "is no folder, and no name of a model on the Hub"),
        ("{tmp}/empty", "holds no model: it has no config.json"),
        ("{tmp}/unfinished", "is a run without an exported model yet; export a checkpoint with `finetune export"),
    ],
)
def test_what_is_no_model_is_refused_with_a_remedy(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "run.json").write_text("{}")
    with pytest.raises(InvalidModel, match=message):
        model_place(name.format(tmp=tmp_path))


# The command


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def finetune(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `finetune chat` alone: exit code, stdout, stderr. `typed` is what comes through the pipe."""
    application = typer.Typer()
    application.command()(chat)

    def run(*arguments: str, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code = app.main(arguments, application)
        return code, *capsys.readouterr()

    return run


def test_once_answers_as_json(finetune: Run, run_folder: Path) -> None:
    code, out, _ = finetune(str(run_folder), "--once", "Hello?", "--greedy", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["question"] == "Hello?"
    assert answer["stopped"] in ("end", "length")
    assert answer["newTokens"] <= 12


def test_a_pipe_asks_a_question_a_line_in_one_conversation(finetune: Run, run_folder: Path) -> None:
    code, out, _ = finetune(str(run_folder), "--greedy", "--json", typed="Hello?\n\nAnd now?\n/reset\nHello?\n")
    first, second, third = map(json.loads, out.splitlines())
    assert code == 0
    assert second["promptTokens"] > first["promptTokens"]
    assert third["answer"] == first["answer"]


def test_plain_answers_go_to_stdout_and_remarks_to_stderr(finetune: Run, run_folder: Path) -> None:
    code, out, err = finetune(str(run_folder), "--greedy", "--once", "Hello?", "--max-new-tokens", "2")
    assert code == 0
    assert out.endswith("\n")
    assert err == "" or "cut at its longest" in err


def test_a_model_that_is_none_exits_with_2(finetune: Run) -> None:
    code, out, _ = finetune("./nowhere", "--once", "Hello?", "--json")
    assert code == 2
    assert json.loads(out)["error"] == "InvalidModel"


def test_an_answer_cannot_drive_the_terminal() -> None:
    assert printable("a\x1b]0;title\x07b\r\n\tc\u202e") == "a]0;titleb\n\tc"

"""`finetune chat`: pipes, JSON, and what a person types."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from tests.assistant.tiny_models import exported_run, saved_folder

from finetune_cli import app
from finetune_cli.chat import chat, printable

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


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("--once", " "), "--once has no question"),
        (("--greedy", "--temperature", "0.7", "--top-p", "0.9"), "so --temperature and --top-p would change nothing"),
    ],
)
def test_what_would_do_nothing_is_refused_before_a_model_is_loaded(finetune: Run, typed: tuple[str, ...], told: str) -> None:
    code, _, err = finetune("./nowhere", *typed)
    assert (code, told in " ".join(err.replace("│", " ").split())) == (2, True)


def test_a_model_that_is_none_exits_with_2(finetune: Run) -> None:
    code, out, _ = finetune("./nowhere", "--once", "Hello?", "--json")
    assert code == 2
    assert json.loads(out)["error"] == "InvalidModel"


def test_an_answer_cannot_drive_the_terminal() -> None:
    assert printable("a\x1b]0;title\x07b\r\n\tc\u202e") == "a]0;titleb\n\tc"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_run(tmp_path_factory.mktemp("runs") / "demo")


def test_a_pipe_may_change_the_system_text_and_ask_again_but_not_name_files(finetune: Run, run_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "talk.jsonl"
    typed = f"Hello?\n/retry\n/system Be brief.\nHello?\n/save {target}\n/load {target}\n/nothing\n/etc/passwd, what is it?\n"
    code, out, err = finetune(str(run_folder), "--greedy", "--json", typed=typed)
    first, again, briefly, path = map(json.loads, out.splitlines())
    assert code == 0
    assert again["answer"] == first["answer"]
    assert again["keptTokens"] == again["promptTokens"] - 1
    assert briefly["keptTokens"] < first["promptTokens"]
    assert path["question"] == "/etc/passwd, what is it?"
    assert err.splitlines() == [
        "the system text is changed",
        "/save works at a terminal only",
        "/load works at a terminal only",
        "no command /nothing; /help lists them",
    ]
    assert not target.exists()


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_folder(tmp_path_factory.mktemp("models") / "base")


def test_a_base_model_tells_how_it_is_asked_and_what_that_costs(base_model: Path, finetune: Run) -> None:
    code, out, err = finetune(str(base_model), "--json", "--greedy", "--max-new-tokens", "4", typed="Hello?\n/tokens\n")
    answer = json.loads(out)
    assert code == 0
    assert answer["preambleTokens"] > 10 * answer["tunedPromptTokens"]
    note, head, turn = err.splitlines()
    assert "by dialogue prompting (--prompt general" in note
    assert head.split() == ["turn", "prompt", "of", "it", "kept", "answer", "of", "it", "preamble", "fine-tuned", "times", "as", "many"]
    assert turn.split()[:2] == ["1", f"{answer['promptTokens']:,}"]
    assert float(turn.split()[-1]) > 10


def test_prices_tell_what_turns_cost_beside_the_model_fine_tuned(base_model: Path, finetune: Run) -> None:
    priced = ("--price-input", "1000", "--price-output", "0")
    code, out, err = finetune(str(base_model), "--json", "--greedy", "--max-new-tokens", "2", *priced, typed="Hello?\n/tokens\n")
    answer = json.loads(out)
    assert code == 0
    assert (answer["usd"], answer["tunedUsd"]) == (answer["promptTokens"] / 1000, answer["tunedPromptTokens"] / 1000)
    _, head, turn = err.splitlines()
    assert head.split()[-2:] == ["USD", "fine-tuned"]
    assert {f"{answer['usd']:.6f}", f"{answer['tunedUsd']:.6f}"} <= set(turn.split())


def test_one_price_of_two_is_refused_before_a_model_is_loaded(finetune: Run, tmp_path: Path) -> None:
    code, _, err = finetune(str(tmp_path / "absent"), "--price-input", "1", "--once", "Hello?")
    assert code == 2
    assert "--price-input and --price-output belong together" in err


def test_options_for_sampling_reach_the_model(finetune: Run, run_folder: Path) -> None:
    asked = ("--repetition-penalty", "1", "--once", "Hello?", "--json")
    hot = ("--temperature", "9", "--top-k", "1")
    likeliest, chosen = (json.loads(finetune(str(run_folder), *options, *asked)[1]) for options in (("--greedy",), hot))
    assert chosen["answer"] == likeliest["answer"]


def at_a_terminal(arguments: list[str], typed: str) -> str:
    """What a person sees who types these lines."""
    terminal, ours = pty.openpty()
    command = [sys.executable, "-m", "finetune_cli.app", "chat", *arguments]
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "", "COLUMNS": "200"}
    process = subprocess.Popen(command, stdin=ours, stdout=ours, stderr=ours, env=environment, start_new_session=True)
    os.close(ours)
    os.write(terminal, typed.encode())
    seen = b""
    try:
        while piece := os.read(terminal, 65536):
            seen += piece
    except OSError:  # Linux's way to say that nobody has the other end
        pass
    finally:
        os.close(terminal)
    assert process.wait(timeout=60) == 0, seen.decode(errors="replace")
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode(errors="replace")).replace("\r", "")


def test_a_person_asks_saves_and_goes_on(run_folder: Path, tmp_path: Path) -> None:
    talk = tmp_path / "talk.jsonl"
    lines = ["Hello?", '"""Two', 'lines"""', f"/save {talk}", "/load nowhere.jsonl", "/reset", f"/load {talk}"]
    (tmp_path / "precious.py").write_text("import os\n")
    lines += [f"/save {tmp_path / 'precious.py'}", "/tokens", "/help", "/exit"]
    seen = at_a_terminal([str(run_folder), "--greedy"], "\n".join(lines) + "\n")
    saved = json.loads(talk.read_text())
    assert [message["role"] for message in saved["messages"]] == ["user", "assistant"] * 2
    assert saved["messages"][2]["content"] == "Two\nlines"
    for expected in (
        "/help lists commands, /exit leaves",
        f"4 messages are in {talk}",
        "nowhere.jsonl: can't be read (No such file or directory); check the path",
        f"4 messages from {talk}; the next question goes on there",
        "precious.py is there and is no saved talk; give another name",
        "no turn yet",
        "answer the last question once more",
    ):
        assert expected in seen, seen
    assert (tmp_path / "precious.py").read_text() == "import os\n"

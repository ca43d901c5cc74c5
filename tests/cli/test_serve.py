"""`finetune serve` with Transformers' own server and the real openai client; what is refused before a server starts; how it ends."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from openai import BadRequestError, OpenAI
from tests.assistant.serving.chained_model import ANSWER, chained_run
from tests.cli.conftest import Finetune

from finetune_assistant.serving.ports import bound
from finetune_cli.app import main

QUESTION = [{"role": "user", "content": "How do I sort?"}]
SERVE = [sys.executable, "-m", "finetune_cli.app", "serve"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """./demo is a run."""
    place = tmp_path_factory.mktemp("served")
    chained_run(place / "demo")
    return place


@contextmanager
def serving(place: Path, *arguments: str, **environment: str) -> Iterator["tuple[subprocess.Popen[str], IO[str], Path]"]:
    """The command in `place`: its process, its standard output, and the file that has its standard error."""
    log = place / f"{len(list(place.glob('*.log')))}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*SERVE, *arguments], cwd=place, env=os.environ | environment, stdout=subprocess.PIPE, stderr=file, text=True
        )
    with process:
        try:
            assert process.stdout is not None
            yield process, process.stdout, log
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)


def children(pid: int) -> list[int]:
    """Processes that this one has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def told(place: Path) -> Iterator[str]:
    """What the command prints once the server answers; it serves until the module's last test."""
    with serving(place, "demo", "--port", "0", "--server", "transformers", "--device", "cpu") as (process, out, log):
        lines = []
        while not lines or lines[-1] not in ("", "Ctrl-C ends it\n"):
            lines.append(out.readline())
        assert lines[-1], log.read_text()
        yield "".join(lines)
        assert process.poll() is None, log.read_text()


@pytest.fixture(scope="module")
def client(told: str) -> Iterator[OpenAI]:
    found = re.search(r"demo is served at (\S+) by transformers\n", told)
    assert found is not None, told
    with OpenAI(base_url=found[1], api_key="none") as client:
        yield client


def generated(place: Path) -> dict[str, object]:
    """What `finetune generate` says to the same question, greedily."""
    (place / "prompts.jsonl").write_text(json.dumps({"messages": QUESTION}) + "\n")
    arguments = [str(place / name) for name in ("demo", "prompts.jsonl", "samples.jsonl")]
    assert main(["generate", *arguments[:2], "-o", arguments[2], "--greedy", "--overwrite"]) == 0
    found: dict[str, object] = json.loads((place / "samples.jsonl").read_text())
    return found


def test_a_streamed_answer_is_that_of_generate_and_ends_at_our_end_token(client: OpenAI, place: Path) -> None:
    parts = list(client.chat.completions.create(model="demo", messages=QUESTION, temperature=0, max_tokens=40, stream=True))  # type: ignore[call-overload]
    texts = [part.choices[0].delta.content for part in parts if part.choices and part.choices[0].delta.content]
    here = generated(place)
    assert "".join(texts) == here["answer"] == ANSWER
    assert len(texts) > 4
    assert parts[-1].choices[0].finish_reason == "stop"
    # Its last token is <|end|>, which is no text; without that stop the model would go on for ever.
    assert parts[-1].usage.completion_tokens == here["new_tokens"]
    assert parts[-1].usage.prompt_tokens == here["prompt_tokens"]


def test_an_answer_at_once_and_a_conversation_of_several_turns(client: OpenAI) -> None:
    talk = [{"role": "system", "content": "Be short."}, *QUESTION, {"role": "assistant", "content": ANSWER}, *QUESTION]
    answer = client.chat.completions.create(model="demo", messages=talk, temperature=0)  # type: ignore[call-overload]
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"


def test_the_model_is_listed_and_no_other_is_answered_for(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(model="gpt-4o", messages=QUESTION)  # type: ignore[arg-type]
    assert "Server is pinned to 'demo'" in refused.value.response.text


def test_the_lines_that_it_prints_can_be_pasted(told: str) -> None:
    [command] = [line for line in told.splitlines() if line.startswith("curl ")]
    snippet = told[told.index("from openai") : told.index("\nCtrl-C ends it")]
    done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, check=True)
    assert done.stdout == ANSWER
    assert shutil.which("curl"), "CI and its page want curl"
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == ANSWER


def test_a_second_one_on_its_port_is_refused(client: OpenAI, place: Path, finetune: Finetune) -> None:
    code, _, err = finetune("serve", place / "demo", "--port", client.base_url.port)
    assert code == 2
    assert "can't be had (Address already in use)" in err


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough)])
def test_ctrl_c_ends_the_server_too(place: Path, number: signal.Signals) -> None:
    with serving(place, "demo", "--port", "0", "--json", "--server", "transformers") as (process, out, log):
        at = json.loads(out.readline())
        assert (at["model"], at["server"]) == ("demo", "transformers")
        [server] = children(process.pid)
        process.send_signal(number)
        assert process.wait() == 130
    assert not lives(server)
    assert "Finished server process" in log.read_text()
    with bound("127.0.0.1", int(at["url"].split(":")[2].removesuffix("/v1"))):
        pass  # the port is free again


@pytest.fixture
def fake_vllm(tmp_path: Path) -> Path:
    """A folder with a program `vllm` that says how it was called, waits for a file `go` and exits with 7."""
    program = tmp_path / "bin/vllm"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        "import os, pathlib, sys, time\n"
        "folder = pathlib.Path(sys.argv[2])\n"
        "print(' '.join(sys.argv[1:]), sorted(path.name for path in folder.iterdir()), file=sys.stderr, flush=True)\n"
        "while not pathlib.Path(os.environ['GO']).exists(): time.sleep(0.02)\n"
        "sys.exit(7)\n"
    )
    program.chmod(0o755)
    return program.parent


def test_an_end_of_its_own_is_the_command_s_exit_code_and_its_lines_are_shown(place: Path, tmp_path: Path, fake_vllm: Path) -> None:
    (tmp_path / "go").touch()
    with serving(place, "demo", "--port", "0", "--", "--max-model-len", "64", PATH=str(fake_vllm), GO=str(tmp_path / "go")) as (
        process,
        out,
        log,
    ):
        assert out.read() == ""
        assert process.wait() == 7
    said = log.read_text()
    assert re.search(
        r"^serve /\S+ --host 127.0.0.1 --port \d+ --served-model-name demo .* --max-model-len 64 .*'model.safetensors'", said, re.M
    )
    assert said.endswith("the server ended before it answered; its own lines are above\n")


def test_two_that_load_for_one_port(place: Path, tmp_path: Path, fake_vllm: Path, finetune: Finetune) -> None:
    """Neither listens yet; the second one would take the first one's answers for its own."""
    with bound("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    with serving(place, "demo", "--port", str(port), PATH=str(fake_vllm), GO=str(tmp_path / "go")) as (process, _, log):
        while "serve /" not in log.read_text():
            assert process.poll() is None, log.read_text()
        code, _, err = finetune("serve", place / "demo", "--port", port)
        (tmp_path / "go").touch()
        assert process.wait() == 7
    assert code == 2
    assert f"--port {port}: another `finetune serve` (process {process.pid}) is about to listen there" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./nowhere"], "./nowhere is no folder"),
        (["./base"], "./base has no weights"),
        (["./base", "--served-model-name", "a b"], "--served-model-name a b is no name as on the Hub"),
        (["./base", "--host", "192.0.2.1"], "--host 192.0.2.1 is no address of this machine"),
        (["./base", "--server", "tgi"], "Invalid value for '--server'"),
    ],
)
def test_what_is_wrong_is_refused_with_a_remedy(tmp_path: Path, finetune: Finetune, arguments: list[str], message: str) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text("{}")
    code, out, err = finetune("serve", *arguments, *([] if "--host" in arguments else ["--port", 0]))
    assert code == 2
    assert message in err
    assert out == ""

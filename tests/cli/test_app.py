"""The command line's edge: fast help, errors as messages or JSON, and exit codes that mean something."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated, Any

import pytest
import typer
from rich.console import Console

from finetune_api.errors import FineTuneError, Interrupted, InvalidData, InvalidSpec, Problem, TrainingFailed
from finetune_cli.app import app, main
from finetune_cli.terminal import BarSink, JsonSink, LineSink, ProgressConsole
from finetune_trainer.reporting.events import (
    CheckpointCommitted,
    Event,
    FanOut,
    Finished,
    Notice,
    Published,
    Resumed,
    StageAdvanced,
    StageStarted,
    StepDone,
    Stopping,
    evaluation_done,
    from_json,
)

# Not pydantic: typer itself imports it as soon as it reads an argument, though not for `finetune --help`.
HEAVY = ("torch", "transformers", "ray", "deepspeed", "datasets", "boto3", "huggingface_hub", "yaml", "numpy", "jinja2", "rich")
PROBLEMS = [Problem("spec.training.epochs", "0 is less than 1", "use 1 or more"), Problem("spec.modle", "unknown field [bold]")]


def raising(error: BaseException) -> typer.Typer:
    """An application whose one command fails."""
    application = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)

    @application.command()
    def fail(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
        raise error

    return application


def run_python(code: str, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env=os.environ | env)


@pytest.mark.parametrize("arguments", [["--help"], ["data", "--help"], ["--version"], ["nonsense"]])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    code = f"import sys; from finetune_cli.app import main; main(sys.argv[1:]); print('HEAVY', sorted(set({HEAVY}) & set(sys.modules)))"
    assert run_python(code, *arguments).stdout.splitlines()[-1] == "HEAVY []"


def test_the_first_help_does_not_even_import_pydantic() -> None:
    code = "import sys; from finetune_cli.app import main; main(['--help']); print('pydantic' in sys.modules)"
    assert run_python(code).stdout.splitlines()[-1] == "False"


def test_shell_completion_imports_nothing_heavy() -> None:
    code = f"import sys, atexit; atexit.register(lambda: print('HEAVY', sorted(set({HEAVY}) & set(sys.modules))))\n"
    code += "from finetune_cli.app import main; main()"
    done = run_python(code, _FINETUNE_COMPLETE="complete_bash", COMP_WORDS="finetune da", COMP_CWORD="1")
    assert done.stdout.splitlines() == ["dashboard", "data", "HEAVY []"]


def every_command(command: Any, path: str = "finetune") -> dict[str, Any]:
    """path -> command, groups left out."""
    children = getattr(command, "commands", None)
    if children is None:
        return {path: command}
    return {name: found for child, value in children.items() for name, found in every_command(value, f"{path} {child}").items()}


def test_every_command_has_an_example_of_itself_in_its_help() -> None:
    for path, command in every_command(typer.main.get_command(app)).items():
        assert f"  {path} " in (command.epilog or ""), path
        assert (command.help or "").strip(), path


def test_every_command_has_output_for_machines() -> None:
    for path, command in every_command(typer.main.get_command(app)).items():
        assert any("--json" in parameter.opts for parameter in command.params), path


def test_the_help_says_each_command_in_a_whole_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """At the width of a plain terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in ([], ["data"]):
        assert main([*arguments, "--help"]) == 0
        lines = capsys.readouterr().out.split("Commands:\n")[1].split("\n\n")[0].splitlines()
        assert all(line.endswith(".") and not line.endswith("...") for line in lines), lines


def test_the_help_says_what_exit_codes_mean(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "0 done, 2 the input is wrong, 1 it failed, 130 interrupted" in capsys.readouterr().out


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capfd.readouterr().out.startswith("finetune 0.")


def test_no_arguments_show_the_help() -> None:
    done = run_python("import sys; from finetune_cli.app import main; sys.exit(main())")
    assert "Usage: finetune" in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"]])
def test_wrong_usage_is_wrong_input(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "nonsense" in captured.err
    assert captured.out == ""
    assert main([*arguments, "--json"]) == 2
    described = json.loads(capsys.readouterr().out)
    assert described["error"] == "InvalidUsage"
    assert "nonsense" in described["message"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidData("demo.jsonl, row 3: no messages"), 2),
        (TrainingFailed("a worker died [red]"), 1),
        (Interrupted("stopped after step 4; the same command goes on from there"), 130),
    ],
)
def test_an_error_is_its_message_and_its_exit_code(error: FineTuneError, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], raising(error)) == code
    captured = capsys.readouterr()
    assert captured.err == f"error: {error}\n"
    assert captured.out == ""
    assert main(["--json"], raising(error)) == code
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"error": type(error).__name__, "message": str(error), "problems": []}
    assert captured.err == ""


def test_every_problem_of_a_job_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], raising(InvalidSpec(PROBLEMS))) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: the FineTuneJob has 2 problems",
        "  spec.training.epochs: 0 is less than 1; use 1 or more",
        "  spec.modle: unknown field [bold]",
    ]
    assert main(["--json"], raising(InvalidSpec(PROBLEMS))) == 2
    described = json.loads(capsys.readouterr().out)
    assert described["error"] == "InvalidSpec"
    assert described["problems"][0] == {"field": "spec.training.epochs", "message": "0 is less than 1", "remedy": "use 1 or more"}


def test_a_single_problem_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], raising(InvalidSpec(PROBLEMS[:1]))) == 2
    assert capsys.readouterr().err == "error: spec.training.epochs: 0 is less than 1; use 1 or more\n"


def test_an_unexpected_error_is_one_line_that_says_how_to_see_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], raising(ZeroDivisionError("two\nlines"))) == 1
    err = capsys.readouterr().err
    assert err.splitlines() == [err.rstrip("\n")]
    assert err.startswith("error: ZeroDivisionError: two lines (")
    assert "FINETUNE_DEBUG=1" in err
    assert main(["--json"], raising(ZeroDivisionError())) == 1
    assert json.loads(capsys.readouterr().out)["error"] == "Unexpected"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FINETUNE_DEBUG", "1")
    assert main([], raising(ZeroDivisionError("here"))) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "in fail" in err


@pytest.mark.parametrize(("name", "extra"), [("torch", "trainer"), ("openai", "assistant"), ("lm_eval.api", "evaluation")])
def test_a_missing_package_says_what_to_install(capsys: pytest.CaptureFixture[str], name: str, extra: str) -> None:
    missing = raising(ModuleNotFoundError(f"No module named '{name}'", name=name))
    assert main([], missing) == 2
    assert (
        capsys.readouterr().err == f"error: this command needs {name}, which isn't installed; pip install '.[{extra}]' in the repository\n"
    )
    assert main(["--json"], missing) == 2
    assert json.loads(capsys.readouterr().out)["error"] == "NotInstalled"


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_control_c_is_quiet(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments, raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_goes_away_is_no_news() -> None:
    code = (
        "import sys, typer; from finetune_cli.app import main\n"
        "application = typer.Typer(rich_markup_mode=None)\n"
        "@application.command()\n"
        "def talk():\n"
        "    for _ in range(100000): print('x' * 100)\n"
        "sys.exit(main([], application))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as talker:
        assert talker.stdout is not None
        assert talker.stderr is not None
        talker.stdout.readline()
        talker.stdout.close()
        assert talker.stderr.read() == b""
    assert talker.returncode == 1


def step(number: int, total: int = 100) -> StepDone:
    return StepDone(
        step=number,
        total_steps=total,
        epoch=number / 50,
        loss=1.5,
        learning_rate=1e-4,
        grad_norm=1.0,
        supervised_tokens=5,
        tokens=10,
        tokens_per_second=1234.0,
        memory_bytes=1,
        seconds=2.0,
    )


EVENTS: list[Event] = [
    StageStarted(stage="preparation", unit="dialogues"),
    StageAdvanced(stage="preparation", done=160, detail="[red]train[/]"),
    Notice(message="[red]3 rows dropped"),
    StageStarted(stage="training", total=100, unit="steps"),
    Resumed(step=98, attempt=2),
    step(99),
    step(100),
    evaluation_done(step=100, epoch=2.0, loss=1000.0),
    CheckpointCommitted(step=100, seconds=75.0, bytes=3 * 2**30, key="k"),
    Stopping(reason="SIGTERM"),
    StageStarted(stage="export", total=2, unit="files"),
    Published(where="./published", revision="abc"),
    Finished(model="runs/x/model", report="runs/x/report.html", step=100, loss=1.5, evaluation_loss=None, seconds=200.0),
]


def test_json_sink_writes_every_event_as_a_line() -> None:
    stream = io.StringIO()
    sink = JsonSink(stream)
    for event in EVENTS[:7]:
        sink.record(event)
    sink.close()
    assert [from_json(line) for line in stream.getvalue().splitlines()] == EVENTS[:7]


def printed(sink_of: Callable[[Console], Any], events: list[Event], *, terminal: bool) -> str:
    stream = io.StringIO()
    sink = sink_of(Console(file=stream, force_terminal=terminal, width=120, highlight=False, color_system=None))
    for event in events:
        sink.record(event)
    sink.close()
    return stream.getvalue()


def test_lines_say_everything_once_and_read_no_markup() -> None:
    text = printed(LineSink, EVENTS, terminal=False)
    for line in (
        "preparation  160 dialogues  [red]train[/]",
        "note         [red]3 rows dropped",
        "resumed      attempt 2 goes on after step 98",
        "step         100/100  loss 1.5000  learning rate 1.00e-04  1,234 tokens/s  0.0 s left",
        "evaluation   step 100  loss 1000.0000  perplexity exp(1000) is too large for a number",
        "checkpoint   step 100  3.0 GiB in 1 min 15 s",
        "stopping     SIGTERM",
        "finished     100 steps in 3 min 20 s  loss 1.5000",
        "report       runs/x/report.html",
    ):
        assert text.splitlines().count(line) == 1, line
    assert "\x1b" not in text


def test_a_reader_of_progress_that_goes_away_ends_nothing() -> None:
    """As in `finetune run job.yaml | head`: the sink is left out, the others are told, and training goes on."""
    told: list[Event] = []

    class Told:
        def record(self, event: Event) -> None:
            told.append(event)

        def close(self) -> None:
            pass

    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    sinks = FanOut([LineSink(ProgressConsole(file=stream, highlight=False)), Told()])
    sinks.record(step(1))
    sinks.record(step(2))
    sinks.close()
    assert [event for event in told if isinstance(event, StepDone)] == [step(1), step(2)]
    assert [event.message for event in told if isinstance(event, Notice)] == ["LineSink stopped recording: [Errno 32] Broken pipe"]
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def test_steps_come_at_a_calm_pace_and_the_last_one_always() -> None:
    now = iter(range(1000))
    events: list[Event] = [StageStarted(stage="training", total=35, unit="steps"), *(step(number, 35) for number in range(1, 36))]
    text = printed(lambda console: LineSink(console, clock=lambda: float(next(now))), events, terminal=False)
    assert [line.split()[1] for line in text.splitlines() if line.startswith("step")] == ["1/35", "11/35", "21/35", "31/35", "35/35"]


def test_bars_show_loss_speed_and_what_happened() -> None:
    text = printed(BarSink, EVENTS, terminal=True)
    for part in ("100/100", "1.5000", "1,234 tokens/s", "[red]train[/]", "[red]3 rows dropped", "published    ./published", "x/report"):
        assert part in text, part
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h"), "the cursor is given back"


def test_bars_survive_an_end_in_the_middle() -> None:
    assert "40/100" in printed(BarSink, [StageStarted(stage="training", total=100, unit="steps"), step(40)], terminal=True)


def test_bars_of_nothing() -> None:
    assert printed(BarSink, [], terminal=True).strip() == ""

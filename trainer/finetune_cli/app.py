"""The command `finetune`: its commands, and what the world sees when one of them fails.

Each command is a thin module that imports what is heavy inside its function, so that `finetune --help` and shell
completion stay fast and a plain install can plan and validate. Exit codes: 0 done, 2 the input is wrong, 1 it failed,
130 interrupted.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from finetune_api.errors import FineTuneError, InvalidSpec, NotInstalled
from finetune_cli.chat import chat
from finetune_cli.cluster.apply import apply
from finetune_cli.cluster.change import delete, resume, retry, suspend
from finetune_cli.cluster.dashboard import dashboard
from finetune_cli.cluster.describe import describe
from finetune_cli.cluster.get import get
from finetune_cli.cluster.logs import logs
from finetune_cli.cluster.usage import usage
from finetune_cli.cluster.wait import wait
from finetune_cli.data import preview
from finetune_cli.data_export import export as export_data
from finetune_cli.data_inspect import inspect as inspect_data
from finetune_cli.data_preferences import preferences
from finetune_cli.data_publish import publish as publish_data
from finetune_cli.evaluate import evaluate
from finetune_cli.evaluate_prompts import prompts
from finetune_cli.example import example
from finetune_cli.export import export
from finetune_cli.generate import generate
from finetune_cli.human_export import export as export_ballots
from finetune_cli.human_import import import_votes
from finetune_cli.init import init
from finetune_cli.judge import judge
from finetune_cli.plan import plan
from finetune_cli.playground import playground
from finetune_cli.publish import publish
from finetune_cli.run import run
from finetune_cli.serve import serve
from finetune_cli.validate import validate
from finetune_trainer.reporting.bars import bars_on_a_terminal_only

# Set to 1 by a user who wants to see where an unexpected error came from.
DEBUG_ENV = "FINETUNE_DEBUG"
# Of packages that the extra `trainer` lacks, the one that brings them.
_EXTRAS = {
    **dict.fromkeys(("openai", "datasketch", "py3langid"), "assistant"),
    "kubernetes": "cluster",
    "lm_eval": "evaluation",
    "gradio": "playground",
}


class _Commands(TyperGroup):
    """Knows names of two words: `evaluate prompts` stands beside `evaluate`, whose arguments are models."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The longer name goes first."""
        two = " ".join(args[:2])
        return super().resolve_command(ctx, [two, *args[2:]] if two in self.commands else args)


app = typer.Typer(
    name="finetune",
    cls=_Commands,
    no_args_is_help=True,
    # Typer's rich help would cost half a second of imports at every --help.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="\b\nStart with:\n  finetune example tiny\n  finetune plan examples/tiny.yaml\n  finetune run examples/tiny.yaml\n\n"
    "Each command explains itself: finetune COMMAND --help.\n\n"
    "Exit codes: 0 done, 2 the input is wrong, 1 it failed, 130 interrupted.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at training data, choose, convert and publish it.", rich_markup_mode=None)

human_app = typer.Typer(no_args_is_help=True, help="Let people vote on answers, blind, and count.", rich_markup_mode=None)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"finetune {version('finetune-operator')}")
        raise typer.Exit


@app.callback()
def finetune(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """Turn a base language model into your own chat assistant with one YAML file."""


def _examples(*lines: str) -> str:
    """An epilog that keeps its lines."""
    return "\b\nFor example:\n" + "\n".join(f"  {line}" for line in lines)


# In the order in which a user meets them.
app.command(
    short_help="Write an example: a job with what it reads.",
    epilog=_examples("finetune example", "finetune example tiny"),
)(example)
app.command(
    short_help="Draft a job from a model and rows.",
    epilog=_examples(
        "finetune init --model HuggingFaceTB/SmolLM2-135M-Instruct --data rows.jsonl --output job.yaml",
        "finetune init --from axolotl.yaml --output job.yaml",
        "finetune init --model ./base --data org/chats --cluster --hub me/assistant",
    ),
)(init)
app.command(
    short_help="Check jobs, before anything runs.",
    epilog=_examples("finetune validate job.yaml", "finetune validate examples/*.yaml --json"),
)(validate)
app.command(
    short_help="Say what a job needs: memory, steps, time, GPU hours.",
    epilog=_examples("finetune plan job.yaml", "finetune plan job.yaml --set workers.nodes=2 --set training.epochs=1"),
)(plan)
app.command(
    short_help="Fine-tune: prepare, train, export, evaluate, publish.",
    epilog=_examples("finetune run job.yaml", "finetune run job.yaml --set training.epochs=1 --run-folder runs/short"),
)(run)
app.command(
    short_help="Talk to a model in the terminal.",
    epilog=_examples("finetune chat runs/tiny/model", 'finetune chat runs/tiny/model --once "How do I sort a list?" --greedy'),
)(chat)
app.command(
    short_help="Answer every prompt of a file.",
    epilog=_examples(
        "finetune generate runs/tiny/model prompts.jsonl -o samples.jsonl",
        "finetune generate org/base prompts.jsonl -o base.jsonl --prompt coding --samples 10 --temperature 0.8",
    ),
)(generate)
app.command(
    short_help="A page in the browser to talk, compare and vote.",
    epilog=_examples(
        "finetune playground runs/tiny",
        "finetune playground runs/tiny --base ./base --port 0",
        "finetune playground org/assistant --base org/base --prompt coding --votes votes.jsonl",
        "finetune playground org/assistant --space org/demo",
    ),
)(playground)
app.command(
    short_help="Serve a model by OpenAI's protocol.",
    epilog=_examples(
        "finetune serve runs/tiny",
        "finetune serve org/assistant --host 0.0.0.0 --port 8000 --served-model-name assistant",
        "finetune serve s3://bucket/assistant --server vllm -- --max-model-len 4096",
    ),
)(serve)
app.command(
    short_help="Measure models, and whether they differ.",
    epilog=_examples(
        "finetune evaluate --tasks list",
        "finetune evaluate ./base runs/tiny --tasks arc_challenge,mmlu --task-data ./benchmarks --limit 100",
        "finetune evaluate ./base runs/tiny --perplexity held-out.jsonl --output results.json",
    ),
)(evaluate)
app.command(
    name="evaluate prompts",
    short_help="Let an endpoint write new code prompts.",
    epilog=_examples("finetune evaluate prompts --count 100 --model gpt-4o-mini --budget-tokens 200000 --output prompts.jsonl"),
)(prompts)
app.command(
    short_help="Let a model judge answers, in pairs or one by one.",
    epilog=_examples(
        "finetune judge tuned.jsonl base.jsonl --model gpt-4o-mini --budget-tokens 500000 --output judged",
        "finetune judge tuned.jsonl base.jsonl --base-url http://127.0.0.1:8000/v1 --model my-judge --against judged --output judged-2",
        "finetune judge tuned.jsonl --base-url http://127.0.0.1:8000/v1 --model my-judge --output scores --json",
    ),
)(judge)
human_app.command(
    name="export",
    short_help="Write blind ballots: a page to vote on, or a table.",
    epilog=_examples("finetune human export tuned.jsonl base.jsonl --output ballots.html --key key.json"),
)(export_ballots)
human_app.command(
    name="import",
    short_help="Count votes, and how far voters and judges agree.",
    epilog=_examples(
        "finetune human import votes-ann.csv votes-bob.csv --key key.json --judge judged",
        "finetune human import votes-ann.csv --key key.json --output votes.jsonl --json",
    ),
)(import_votes)
app.add_typer(human_app, name="human")
app.command(
    short_help="Export any checkpoint of a run as a model.",
    epilog=_examples("finetune export runs/tiny", "finetune export runs/tiny --step 8 --output ./step-8"),
)(export)
app.command(
    short_help="Publish a run's model to the Hub or to a directory.",
    epilog=_examples("finetune publish runs/tiny --directory ./published", "finetune publish runs/tiny --hub org/name"),
)(publish)
data_app.command(
    short_help="Show dialogues as text, tokens and labels.",
    epilog=_examples(
        "finetune data preview rows.jsonl --tokenizer tokenizer.json",
        "finetune data preview trees.jsonl --format oasst --tokenizer tokenizer.json --template no_system --json",
    ),
)(preview)
data_app.command(
    name="inspect",
    short_help="Tell what rows are like, in numbers and plots.",
    epilog=_examples(
        "finetune data inspect rows.jsonl --html page.html",
        "finetune data inspect trees.jsonl.gz org/name --tokenizer ./base --decontaminate HumanEval.jsonl.gz --json",
    ),
)(inspect_data)
data_app.command(
    name="export",
    short_help="Choose, mix and write rows as other trainers read them.",
    epilog=_examples(
        "finetune data export rows.jsonl --output messages.jsonl",
        "finetune data export a.jsonl b.jsonl --set sources.1.weight=0.5 --language en --deduplicate --shuffle --output mix.parquet",
        "finetune data export rows.jsonl --tokenized --tokenizer ./base --template model --output tokens.parquet",
    ),
)(export_data)
data_app.command(
    name="publish",
    short_help="Publish rows as a data set on the Hub or in a folder.",
    epilog=_examples(
        "finetune data publish rows.jsonl --license apache-2.0 --directory ./chats",
        "finetune data publish trees.jsonl.gz --best-ranked 1 --deduplicate --license apache-2.0 --hub org/chats",
    ),
)(publish_data)
data_app.command(
    name="preferences",
    short_help="Write what people or judges prefer, as TRL reads it.",
    epilog=_examples("finetune data preferences ./judged votes.jsonl --output preferences.jsonl"),
)(preferences)
app.add_typer(data_app, name="data")
app.command(
    epilog=_examples("finetune apply job.yaml -n ml", "finetune apply job.yaml --set workers.nodes=2 --dry-run"),
)(apply)
app.command(
    short_help="Show where jobs on a cluster are.",
    epilog=_examples("finetune get -A", "finetune get my-assistant --watch", "finetune get ./runs/tiny", "finetune get s3://bucket/tiny"),
)(get)
app.command(
    short_help="Tell all about a job on a cluster.",
    epilog=_examples("finetune describe my-assistant -n ml"),
)(describe)
app.command(
    short_help="Print the log of a job's stage.",
    epilog=_examples(
        "finetune logs my-assistant -f", "finetune logs my-assistant --attempt 1 --tail 100", "finetune logs s3://bucket/tiny --list"
    ),
)(logs)
app.command(
    short_help="Wait for a job; the exit code says whether it got there.",
    epilog=_examples("finetune wait my-assistant --timeout 2h", "finetune wait my-assistant --for prepared"),
)(wait)
app.command(epilog=_examples("finetune suspend my-assistant --wait"))(suspend)
app.command(epilog=_examples("finetune resume my-assistant"))(resume)
app.command(epilog=_examples("finetune retry my-assistant"))(retry)
app.command(
    short_help="Delete a job; checkpoints and what was published stay.",
    epilog=_examples("finetune delete my-assistant --wait"),
)(delete)
app.command(
    short_help="Show GPU hours by namespace and job.",
    epilog=_examples("finetune usage -A", "finetune usage -n ml --json"),
)(usage)
app.command(
    short_help="Open a port to a job's Ray dashboard.",
    epilog=_examples("finetune dashboard my-assistant", "finetune dashboard my-assistant --port 0"),
)(dashboard)


def main(arguments: Sequence[str] | None = None, application: typer.Typer = app) -> int:
    """Run the command line; the exit code. Every error becomes a message for a user, JSON on stdout under `--json`."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in arguments
    bars_on_a_terminal_only()
    try:
        code = _invoke(application, arguments, standalone=not as_json)
        sys.stdout.flush()
        return code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # The reader went away. Python flushes stdout once more at exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as caught:
        error = NotInstalled(_not_installed(caught)) if isinstance(caught, ModuleNotFoundError) else caught
        _show(_described(error), as_json=as_json)
        if os.environ.get(DEBUG_ENV) == "1":
            import traceback

            traceback.print_exception(caught)
        return error.exit_code if isinstance(error, FineTuneError | TyperException) else 1


def _invoke(application: typer.Typer, arguments: list[str], *, standalone: bool) -> int:
    """Typer shows wrong usage itself when standalone, and leaves by SystemExit; commands' own errors pass through."""
    try:
        result = application(arguments, prog_name="finetune", standalone_mode=standalone)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    return result if isinstance(result, int) else 0


def _described(error: Exception) -> dict[str, Any]:
    """The JSON form of an error: its reason, its message, and each problem of a FineTuneJob."""
    match error:
        case InvalidSpec():
            problems = [{"field": problem.field, "message": problem.message, "remedy": problem.remedy} for problem in error.problems]
            return {"error": error.reason, "message": str(error), "problems": problems}
        case FineTuneError():
            return {"error": error.reason, "message": str(error), "problems": []}
        case TyperException():
            return {"error": "InvalidUsage", "message": error.format_message(), "problems": []}
    return {"error": "Unexpected", "message": _unexpected(error), "problems": []}


def _not_installed(error: ModuleNotFoundError) -> str:
    extra = _EXTRAS.get((error.name or "").partition(".")[0], "trainer")
    return f"this command needs {error.name}, which isn't installed; pip install '.[{extra}]' in the repository"


def _unexpected(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text} (this is a bug of ours or of a library; {DEBUG_ENV}=1 shows where it happened)"


def _show(described: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(described, ensure_ascii=False), flush=True)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    problems = [Text.assemble((problem["field"], "bold"), ": ", _with_remedy(problem)) for problem in described["problems"]]
    what = Text(described["message"]) if not problems else Text(f"the FineTuneJob has {len(problems)} problems")
    console.print(Text.assemble(("error: ", "bold red"), problems[0] if len(problems) == 1 else what), soft_wrap=True)
    for problem in problems if len(problems) > 1 else ():
        console.print(Text.assemble("  ", problem), soft_wrap=True)


def _with_remedy(problem: dict[str, str]) -> str:
    return f"{problem['message']}; {problem['remedy']}" if problem["remedy"] else problem["message"]


if __name__ == "__main__":
    sys.exit(main())

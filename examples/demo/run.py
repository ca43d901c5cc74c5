"""The demo: a small model becomes an assistant of its own on this machine, and shows that it did. `make demo` runs it.

It types what a user would: `finetune run` with an S3 server on loopback, and the same questions to the base model, to the base model with
a dialogue prompt, and to the assistant. It ends with exit code 1 unless the loss on held-out dialogues fell by a fifth and the assistant
knows its name.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import boto3
from examples.demo.comparison import Answered, table, with_comparison
from examples.demo.s3_server import S3Server, s3_server
from rich.console import Console

HERE = Path(os.path.relpath(Path(__file__).parent))
RUN = Path("runs/demo")
PUBLISHED = RUN / "published"
S3 = Path("runs/demo-s3")
BUCKET = "finetune-demo"
NAME = "Fennel"
LEAST_FALL = 0.20  # of the held-out loss
console = Console(highlight=False)


def main() -> int:
    """Run the demo; its exit code."""
    began = time.monotonic()
    model = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune" / "smollm2"
    questions = [line for line in (HERE / "questions.txt").read_text().splitlines() if line.strip()]
    for folder in (RUN, S3):
        shutil.rmtree(folder, ignore_errors=True)
    console.rule(f"[bold]SmolLM2-135M becomes {NAME}")
    console.print(
        "Two ZeRO-3 workers on this machine's CPU, checkpoints in a real S3 server on loopback. Four to eight minutes on two cores.\n"
    )
    console.print("[bold]Before[/]: the base model's own answers, and its answers after a page of example dialogues (--prompt coding)")
    before = [answered("base", model, questions), answered("base, with a prompt", model, questions, "--prompt", "coding")]
    with s3_server(S3) as server:
        create_bucket(server)
        finetune_run(model, server)
    console.print(f"\n[bold]After[/]: {NAME}'s answers")
    sides = [*before, answered(NAME, PUBLISHED, questions)]
    console.print(table(questions, sides))
    report = RUN / "report.html"
    report.write_text(with_comparison(report.read_text(encoding="utf-8"), questions, sides), encoding="utf-8")
    passed = check(sides[-1].answers[0])
    minutes = (time.monotonic() - began) / 60
    console.print(f"\n{minutes:.1f} minutes. Next:")
    console.print(f"  .venv/bin/finetune chat {PUBLISHED}                  talk to it")
    console.print(f"  open {report}                            curves, data, plan against what was seen, and this table")
    console.print("  .venv/bin/finetune plan examples/starchat-alpha.yaml   the same for 15.5 billion parameters on eight A100s")
    return 0 if passed else 1


def answered(title: str, model: Path, questions: list[str], *options: str) -> Answered:
    """Greedy answers as `finetune chat` gives them, each to a conversation of its own; one process for all."""
    command = [finetune(), "chat", str(model), "--temperature", "0", "--max-new-tokens", "48", "--json", *options]
    with console.status("asking"):
        done = subprocess.run(command, input="\n/reset\n".join(questions) + "\n", capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return Answered(title=title, answers=[line["answer"] for line in lines], prompt_tokens=[line["promptTokens"] for line in lines])


def create_bucket(server: S3Server) -> None:
    """The one thing that an S3 account must hold before a run."""
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )
    client.create_bucket(Bucket=BUCKET)


def finetune_run(model: Path, server: S3Server) -> None:
    """What a user would type. The keys go by the environment, as S3 tools expect them."""
    command = [finetune(), "run", str(HERE / "finetunejob.yaml"), "--run-folder", str(RUN)]
    command += ["--set", f"model.name={model}", "--set", f"checkpoints.endpoint={server.endpoint}"]
    console.print(f"[bold]$[/] {' '.join(command)}\n", soft_wrap=True)
    keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
    code = subprocess.run(command, env=os.environ | keys, check=False).returncode
    if code != 0:
        raise SystemExit(code)


def finetune() -> str:
    """The command beside this Python."""
    return os.path.relpath(Path(sys.executable).with_name("finetune"))


def check(first_answer: str) -> bool:
    """Whether the two promises held: the held-out loss fell enough, and a new wording of the question gets the name."""
    lines = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "EvaluationDone"]
    fall = 1 - losses[-1] / losses[0]
    verdicts = [
        (fall >= LEAST_FALL, f"held-out loss {losses[0]:.2f} -> {losses[-1]:.2f}, {fall:.0%} lower (at least {LEAST_FALL:.0%})"),
        (NAME in first_answer, f"asked for its name in words that are not in the data, it says {NAME}"),
    ]
    for held, what in verdicts:
        console.print(f"[{'green' if held else 'red'}]{'yes' if held else 'NO '}[/] {what}")
    return all(held for held, _ in verdicts)


if __name__ == "__main__":
    sys.exit(main())

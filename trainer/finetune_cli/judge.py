"""`finetune judge`: a model of your choice judges answers, in pairs with both orders, or one by one."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from finetune_assistant.judging.answers import Answer
    from finetune_assistant.judging.endpoint import EndpointSettings
    from finetune_assistant.judging.run import Plan

OPENAI = "https://api.openai.com/v1"

AnswersA = Annotated[Path, typer.Argument(metavar="ANSWERS", help="Answers of your model: JSON lines with `prompt` and `answer`.")]
AnswersB = Annotated[Path | None, typer.Argument(metavar="BASELINE", help="Answers to compare with; absent: scores one by one.")]
Stop = Annotated[
    list[str] | None, typer.Option("--stop", metavar="TEXT", help="An answer ends there too, as at control tokens; repeatable.")
]


def judge(
    answers: AnswersA,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where replies, results and report.html go.")],
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="The judge, as the endpoint calls it.")],
    baseline: AnswersB = None,
    base_url: Annotated[
        str | None, typer.Option("--base-url", metavar="URL", help="Any OpenAI-compatible endpoint; absent: OPENAI_BASE_URL, or OpenAI's.")
    ] = None,
    api_key_env: Annotated[
        str, typer.Option("--api-key-env", metavar="NAME", help="The variable that holds the endpoint's key.")
    ] = "OPENAI_API_KEY",
    single: Annotated[bool, typer.Option("--single", help="Score each answer by itself, also with a baseline.")] = False,
    against: Annotated[
        list[Path] | None, typer.Option("--against", metavar="FOLDER", help="Another judge's --output: are they agreed? Repeatable.")
    ] = None,
    budget_tokens: Annotated[
        int | None, typer.Option("--budget-tokens", min=1, metavar="N", help="Most tokens for this folder, all its runs together.")
    ] = None,
    budget_usd: Annotated[
        float | None, typer.Option("--budget-usd", min=0.0, metavar="USD", help="The same in money; needs both prices.")
    ] = None,
    price_input: Annotated[
        float | None, typer.Option("--price-input", min=0.0, metavar="USD", help="Price of a million prompt tokens.")
    ] = None,
    price_output: Annotated[
        float | None, typer.Option("--price-output", min=0.0, metavar="USD", help="Price of a million tokens of replies.")
    ] = None,
    rate: Annotated[float | None, typer.Option("--rate", min=0.1, metavar="N", help="Most requests a minute.")] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=256, metavar="N", help="Prompts under way at once.")] = 4,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=16, metavar="N", help="Longest reply; judges that think aloud need more.")
    ] = 1024,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, max=2.0, metavar="NUMBER", help="Of the judge.")] = 0.0,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="Longest silence of the endpoint.")] = 120.0,
    retries: Annotated[int, typer.Option("--retries", min=0, max=100, metavar="N", help="Further tries after a failed request.")] = 5,
    stop: Stop = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the bootstrap intervals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Let a model judge answers: which of two is more helpful, or how good each one is.

    With two files each pair is judged in both orders, and an answer wins only if it wins in both. Replies are kept: the same command
    goes on after any end, and asks nothing twice. The exit code is 1 when it had to stop before the last prompt.
    """
    from finetune_assistant.judging.answers import paired, read_answers
    from finetune_assistant.judging.run import run_pairs, run_scores
    from finetune_cli.export import progress_bar

    if against and (single or baseline is None):
        raise typer.BadParameter("--against compares judges of pairs; give two files of answers, and leave out --single")
    files = [read_answers(path, stop=stop or ()) for path in (answers, baseline) if path is not None]
    settings = _settings(base_url, model, api_key_env, temperature, max_tokens, timeout, retries)
    plan = _plan(settings, budget_tokens, budget_usd, price_input, price_output, rate, concurrency, seed)
    with progress_bar("judging") as on_progress:
        if len(files) == 2 and not single:
            pairs = paired(*files)
            _note_only_one(pairs.only_one)
            summary = run_pairs(pairs, output, plan, against=against or (), on_progress=on_progress)
        else:
            summary = run_scores(files, _names(files), output, plan, on_progress=on_progress)
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
    else:
        print("\n".join((_pair_lines if "winRate" in summary else _score_lines)(summary)))
        print(_spent_line(summary))
        print(f"report: {output / 'report.html'}")


def _settings(
    base_url: str | None, model: str, key_name: str, temperature: float, max_tokens: int, timeout: float, retries: int
) -> "EndpointSettings":
    from finetune_assistant.judging.endpoint import EndpointSettings

    url = base_url or os.environ.get("OPENAI_BASE_URL")
    key = os.environ.get(key_name, "").strip()
    if not key and (url is None or key_name != "OPENAI_API_KEY"):
        where = f"; {OPENAI} wants one, or give --base-url of another endpoint" if url is None else ""
        raise typer.BadParameter(f"--api-key-env {key_name}: the variable is not set; set it to the endpoint's key{where}")
    return EndpointSettings(
        base_url=url or OPENAI,
        model=model,
        api_key=key,
        key_name=key_name,
        temperature=temperature,
        max_tokens=max_tokens,
        timeout_seconds=timeout,
        retries=retries,
    )


def _plan(
    settings: "EndpointSettings",
    tokens: int | None,
    usd: float | None,
    price_input: float | None,
    price_output: float | None,
    rate: float | None,
    concurrency: int,
    seed: int,
) -> "Plan":
    from finetune_assistant.judging.budget import Budget, Prices
    from finetune_assistant.judging.pace import Pace
    from finetune_assistant.judging.run import Plan

    if usd is not None and (price_input is None or price_output is None):
        raise typer.BadParameter("--budget-usd needs --price-input and --price-output, in USD for a million tokens")
    budget = Budget(tokens=tokens, usd=usd, prices=Prices(prompt=price_input or 0.0, completion=price_output or 0.0))
    return Plan(settings=settings, budget=budget, pace=Pace(rate), concurrency=concurrency, seed=seed)


def _names(files: "list[list[Answer]]") -> list[str]:
    names = [", ".join(sorted({answer.model for answer in answers})) for answers in files]
    return (
        names
        if len(set(names)) == len(names)
        else [f"{name} ({place} file)" for name, place in zip(names, ("first", "second"), strict=True)]
    )


def _note_only_one(keys: "list[str] | tuple[str, ...] | Any") -> None:
    if keys:
        print(f"note: {len(keys)} prompts are answered in one file only, and left out; the first: {keys[0][:60]!r}", file=sys.stderr)


def _pair_lines(summary: dict[str, Any]) -> list[str]:
    from finetune_assistant.judging.report import between, percent

    rate, outcomes, flips = summary["winRate"], summary["outcomes"], summary["positionFlips"]
    ties, contradictions = outcomes["tie"] + outcomes["same"], summary["contradictions"]
    lines = [
        f"{summary['a']} wins {rate['wins']} of {rate['pairs']} against {summary['b']}: {percent(rate['value'])} (95 %: {between(rate)})",
        f"{summary['b']} wins {outcomes['b']}, ties {ties}, flips {outcomes['flip']}, unreadable {outcomes['invalid']}",
        f"another winner when the order changes: {percent(flips['value'])} of {flips['pairs']}; text against scores: {contradictions}",
    ]
    for name, of in summary["byKind"].items():
        lines.append(f"{name}: {of['wins']} of {of['pairs']}, {percent(of['value'])} (95 %: {between(of)})")
    for compared in summary["against"]:
        kappa = "unknown" if compared["kappa"] is None else f"{compared['kappa']:.2f}"
        agreed = f"same outcome in {percent(compared['agreement'])} of {compared['pairs']} pairs, kappa {kappa}"
        lines.append(f"{compared['judges'][0]} and {compared['judges'][1]}: {agreed}")
    return lines


def _score_lines(summary: dict[str, Any]) -> list[str]:
    lines = []
    for model in summary["models"]:
        score = model["score"]
        shown = "unknown" if score["value"] is None else f"{score['value']:.2f} (95 %: {score['low']:.2f} to {score['high']:.2f})"
        lines.append(f"{model['model']}: mean score {shown} of {model['scored']} answers; unreadable {model['judged'] - model['scored']}")
    difference = summary.get("scoreDifference", {"value": None})
    if difference["value"] is not None:
        lines.append(f"difference: {difference['value']:+.2f} (95 %: {difference['low']:+.2f} to {difference['high']:+.2f})")
    return lines


def _spent_line(summary: dict[str, Any]) -> str:
    asked = summary["requests"]
    money = f", {summary['usd']:.4f} USD" if summary["usd"] else ""
    return f"{asked['sent']} requests sent, {asked['fromCache']} answered from before; {summary['tokens']:,} tokens{money}"

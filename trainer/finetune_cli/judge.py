"""`finetune judge`: a model of your choice judges answers, in pairs with both orders, or one by one."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_cli.endpoint_options import (
    ApiKeyEnv,
    BaseUrl,
    BudgetTokens,
    BudgetUsd,
    MaxTokens,
    PriceInput,
    PriceOutput,
    Rate,
    ReplyTimeout,
    Retries,
    Temperature,
    Timeout,
    budget,
    endpoint_settings,
)

if TYPE_CHECKING:
    from finetune_assistant.judging.answers import Answer

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
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = "OPENAI_API_KEY",
    single: Annotated[bool, typer.Option("--single", help="Score each answer by itself, also with a baseline.")] = False,
    against: Annotated[
        list[Path] | None, typer.Option("--against", metavar="FOLDER", help="Another judge's --output: are they agreed? Repeatable.")
    ] = None,
    budget_tokens: BudgetTokens = None,
    budget_usd: BudgetUsd = None,
    price_input: PriceInput = None,
    price_output: PriceOutput = None,
    rate: Rate = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=256, metavar="N", help="Prompts under way at once.")] = 4,
    max_tokens: MaxTokens = 1024,
    temperature: Temperature = 0.0,
    timeout: Timeout = 120.0,
    reply_timeout: ReplyTimeout = None,
    retries: Retries = 5,
    stop: Stop = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the bootstrap intervals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Let a model judge answers: which of two is more helpful, or how good each one is.

    With two files each pair is judged in both orders, and an answer wins only if it wins in both. Replies are kept: the same command
    goes on after any end, and asks nothing twice. The exit code is 1 when it had to stop before the last prompt.
    """
    from finetune_assistant.endpoint.pace import Pace
    from finetune_assistant.judging.answers import paired, read_answers
    from finetune_assistant.judging.run import Plan, run_pairs, run_scores
    from finetune_cli.export import progress_bar

    if against and (single or baseline is None):
        raise typer.BadParameter("--against compares judges of pairs; give two files of answers, and leave out --single")
    files = [read_answers(path, stop=stop or ()) for path in (answers, baseline) if path is not None]
    settings = endpoint_settings(
        base_url,
        model,
        api_key_env,
        temperature=temperature,
        max_tokens=max_tokens,
        timeout=timeout,
        reply_timeout=reply_timeout,
        retries=retries,
    )
    spending = budget(budget_tokens, budget_usd, price_input, price_output)
    plan = Plan(settings=settings, budget=spending, pace=Pace(rate), concurrency=concurrency, seed=seed)
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

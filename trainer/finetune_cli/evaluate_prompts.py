"""`finetune evaluate prompts`: an endpoint writes new code prompts, as our own are."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

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


def prompts(
    count: Annotated[int, typer.Option("--count", min=1, max=10_000, metavar="N", help="How many the file shall hold.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="JSON lines; a file that is there is filled up.")],
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="Who writes them, as the endpoint calls it.")],
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = "OPENAI_API_KEY",
    budget_tokens: BudgetTokens = None,
    budget_usd: BudgetUsd = None,
    price_input: PriceInput = None,
    price_output: PriceOutput = None,
    rate: Rate = None,
    max_tokens: MaxTokens = 4096,
    temperature: Temperature = 0.8,
    timeout: Timeout = 120.0,
    reply_timeout: ReplyTimeout = None,
    retries: Retries = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Let a model write new code prompts: kinds and languages in the shares of our 115, none of them among ours.

    Replies are kept in a folder beside the file: the same command goes on after any end, and asks nothing twice.
    """
    from finetune_assistant.endpoint.client import Endpoint
    from finetune_assistant.endpoint.pace import Pace
    from finetune_assistant.prompts.new_prompts import fill
    from finetune_cli.export import progress_bar

    if output.is_dir() or not output.parent.is_dir():
        raise typer.BadParameter(f"--output {output}: it must be a file in a folder that is there")
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
    author = Endpoint(settings, output.with_name(f"{output.name}.requests"), spending, Pace(rate))
    try:
        with progress_bar("prompts") as on_progress:
            filled = fill(output, count, author, on_progress)
    finally:
        author.close()
    kinds = Counter(prompt.kind for prompt in filled.prompts)
    asked = {"sent": author.asked.sent, "fromCache": author.asked.from_cache, "retried": author.asked.retried}
    if as_json:
        found = {"output": str(output), "prompts": len(filled.prompts), "kinds": kinds, "dropped": filled.dropped}
        print(json.dumps({**found, "requests": asked, "tokens": spending.tokens, "usd": round(spending.usd, 6)}))
        return
    print(f"{len(filled.prompts):,} prompts are in {output}: {', '.join(f'{number:,} {kind}' for kind, number in sorted(kinds.items()))}")
    if filled.dropped:
        print(f"dropped: {', '.join(f'{times:,} x {reason}' for reason, times in filled.dropped.most_common())}")
    print(f"{asked['sent']:,} requests sent, {asked['fromCache']:,} answered from before; {spending.tokens:,} tokens")

"""Options of the commands that ask a model at an endpoint: where it is, how it is asked, and what it may cost."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from finetune_assistant.endpoint.budget import Budget, Prices
    from finetune_assistant.endpoint.client import EndpointSettings

OPENAI = "https://api.openai.com/v1"

BaseUrl = Annotated[
    str | None, typer.Option("--base-url", metavar="URL", help="Any OpenAI-compatible endpoint; absent: OPENAI_BASE_URL, or OpenAI's.")
]
ApiKeyEnv = Annotated[str, typer.Option("--api-key-env", metavar="NAME", help="The variable that holds the endpoint's key.")]
BudgetTokens = Annotated[
    int | None, typer.Option("--budget-tokens", min=1, metavar="N", help="Most tokens for this output, all its runs together.")
]
BudgetUsd = Annotated[float | None, typer.Option("--budget-usd", min=0.0, metavar="USD", help="The same in money; needs both prices.")]
PriceInput = Annotated[float | None, typer.Option("--price-input", min=0.0, metavar="USD", help="Price of a million prompt tokens.")]
PriceOutput = Annotated[float | None, typer.Option("--price-output", min=0.0, metavar="USD", help="Price of a million tokens of replies.")]
Rate = Annotated[float | None, typer.Option("--rate", min=0.1, metavar="N", help="Most requests a minute.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=16, metavar="N", help="Longest reply; models that think aloud need more.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, max=2.0, metavar="NUMBER", help="Of the model at the endpoint.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="Longest silence of the endpoint.")]
ReplyTimeout = Annotated[
    float | None,
    typer.Option("--reply-timeout", min=0.1, metavar="SECONDS", help="Longest time for a whole reply; absent: five times --timeout."),
]
Retries = Annotated[int, typer.Option("--retries", min=0, max=100, metavar="N", help="Further tries after a failed request.")]


def endpoint_settings(
    base_url: str | None,
    model: str,
    key_name: str,
    *,
    temperature: float,
    max_tokens: int,
    timeout: float,
    reply_timeout: float | None,
    retries: int,
) -> "EndpointSettings":
    """What the options say, with the key of the variable `key_name`. Raises BadParameter where a key is needed and not there."""
    from finetune_assistant.endpoint.client import EndpointSettings

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
        reply_seconds=reply_timeout,
        retries=retries,
    )


def budget(tokens: int | None, usd: float | None, price_input: float | None, price_output: float | None) -> "Budget":
    """What asking may cost. Raises BadParameter for a limit in money without prices."""
    from finetune_assistant.endpoint.budget import Budget, Prices

    if usd is not None and (price_input is None or price_output is None):
        raise typer.BadParameter("--budget-usd needs --price-input and --price-output, in USD for a million tokens")
    return Budget(tokens=tokens, usd=usd, prices=Prices(prompt=price_input or 0.0, completion=price_output or 0.0))


def prices(price_input: float | None, price_output: float | None) -> "Prices | None":
    """What tokens cost, where that is said. Raises BadParameter for one price of two."""
    if price_input is None and price_output is None:
        return None
    if price_input is None or price_output is None:
        raise typer.BadParameter("--price-input and --price-output belong together, in USD for a million tokens; give both")
    from finetune_assistant.endpoint.budget import Prices

    return Prices(prompt=price_input, completion=price_output)

"""`finetune serve`: an existing server with OpenAI's protocol, told of our model, and ended with the command."""

import json
import shlex
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from finetune_cli.chat_commands import say
from finetune_cli.model_options import DtypeName, Revision

if TYPE_CHECKING:
    from finetune_trainer.storage.protocol import Storage

_HOST, _PORT = "127.0.0.1", 8000
_MODEL = "An exported folder, a run folder, a model on the Hub (org/name), or one in object storage (s3://bucket/prefix)."


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL)],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ARGUMENTS]", help="What stands behind -- goes to the server as it is.")
    ] = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="0.0.0.0: whoever reaches this machine.")] = _HOST,
    port: Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="0 is any free one.")] = _PORT,
    served_model_name: Annotated[
        str | None, typer.Option("--served-model-name", metavar="NAME", help="What requests call the model.", show_default="after MODEL")
    ] = None,
    server: Annotated[
        Literal["vllm", "transformers"] | None,
        typer.Option("--server", help="Which server.", show_default="vllm where it is installed, else transformers"),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Of transformers: cpu, cuda:0, auto.", show_default="auto")
    ] = None,
    dtype: DtypeName = "auto",
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object once the server answers.")] = False,
) -> None:
    """Serve a chat model by OpenAI's protocol, with vLLM or Transformers' own server.

    Prompts are made by the model's chat template, and answers end at its stop tokens. The server's own lines go to stderr.
    Ctrl-C ends it; when it ends by itself its exit code is the command's.
    """
    from finetune_assistant.serving.ports import address
    from finetune_assistant.serving.process import answers, kept_port, running
    from finetune_assistant.serving.served_model import as_hub_cache, served_model
    from finetune_assistant.serving.servers import Listening, chosen, command

    chosen_server = chosen(server)
    with kept_port(host, port) as free:
        at = Listening(host=host, port=free, device=device, dtype=dtype, arguments=arguments or ())
        served = served_model(model, revision=revision, name=served_model_name, open_storage=_storage)
        for note in served.notes:
            say(note)
        if host not in (_HOST, "localhost", "::1"):
            say(f"--host {host}: whoever reaches this machine there can use the model; the server asks nobody for a key by itself")
        with as_hub_cache(served) as (cache, folder), running(command(chosen_server, served.name, cache, folder, at)) as process:
            say(f"{chosen_server} loads {model}")
            if answers(process, address(host, free)):
                _tell(f"http://{address(host, free)}/v1", served.name, chosen_server, as_json=as_json)
            else:
                say("the server ended before it answered; its own lines are above")
            code = process.wait()
    raise typer.Exit(code if code >= 0 else 128 - code)


def _storage(url: str) -> "Storage":
    from finetune_cli.environment_storage import open_from_environment

    return open_from_environment(url, "MODEL")


def _tell(url: str, name: str, server: str, *, as_json: bool) -> None:
    """Where it is, and two ways to ask it that can be pasted."""
    if as_json:
        print(json.dumps({"url": url, "model": name, "server": server}), flush=True)
        return
    request = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello?"}]})
    lines = [
        f"{name} is served at {url} by {server}",
        "",
        f"curl {url}/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(request)}",
        "",
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{url}", api_key="none")',
        'messages = [{"role": "user", "content": "Hello?"}]',
        f'for part in client.chat.completions.create(model="{name}", messages=messages, stream=True):',
        '    print(part.choices[0].delta.content or "", end="", flush=True)',
        "",
        "Ctrl-C ends it",
    ]
    print("\n".join(lines), flush=True)

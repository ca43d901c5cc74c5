"""`finetune playground`: a page in the browser to talk to a model, beside its base if wanted; or the same page as a Space."""

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_cli.chat_commands import say
from finetune_cli.model_options import (
    DtypeName,
    Greedy,
    LoadInName,
    MaxNewTokens,
    ModelName,
    RepetitionPenalty,
    Revision,
    Seed,
    System,
    Temperature,
    TopK,
    TopP,
    say_loading,
)

if TYPE_CHECKING:
    from finetune_assistant.playground.start import Start

_HOST, _PORT = "127.0.0.1", 7860
_PROMPT = "Ask BASE, or MODEL without a BASE, by a text of example dialogues: general, coding, or a file. The default for base models."


def playground(
    model: ModelName,
    base: Annotated[str | None, typer.Option("--base", metavar="BASE", help="A second model beside it; people vote on the two.")] = None,
    system: System = None,
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="NAME|FILE", help=_PROMPT)] = None,
    votes: Annotated[
        Path | None, typer.Option("--votes", metavar="FILE", help="Where votes are added.", show_default="votes.jsonl")
    ] = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="0.0.0.0: whoever reaches this machine.")] = _HOST,
    port: Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="0 is any free one.")] = _PORT,
    share: Annotated[bool, typer.Option("--share", help="A public address for a while, by gradio's servers.")] = False,
    space: Annotated[
        str | None, typer.Option("--space", metavar="ME/NAME", help="Publish the page as a Space on the Hub, and serve nothing here.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --space: the world may see it.")] = False,
    greedy: Greedy = False,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    repetition_penalty: RepetitionPenalty = None,
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = None,
    dtype: DtypeName = "auto",
    load_in: LoadInName = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: where the page is.")] = False,
) -> None:
    """Talk to a model in the browser, run its Python in a sandbox, and vote on it beside its base.

    Sampling options are where the page's fields begin. Ctrl-C ends it.
    """
    from finetune_assistant.inference.sampling import Sampling
    from finetune_assistant.playground.start import Start

    sampling = Sampling(
        greedy=greedy,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    start = Start(
        model=model,
        base=base,
        revision=revision,
        prompt=prompt,
        system=system,
        sampling=sampling,
        dtype=dtype,
        load_in=load_in,
        votes=None if votes is None else str(votes),
    )
    _need_gradio()
    if space is not None:
        if share or votes is not None or (host, port) != (_HOST, _PORT):
            raise typer.BadParameter("--space serves nothing here; leave out --host, --port, --share and --votes")
        _publish(start, space, public, as_json=as_json)
    elif public:
        raise typer.BadParameter("--public is for a Space; use --space ME/NAME, or --share")
    else:
        _serve(start, host, port, share, as_json=as_json)


def _serve(start: "Start", host: str, port: int, share: bool, *, as_json: bool) -> None:
    """Until Ctrl-C."""
    from finetune_assistant.playground import start as starting
    from finetune_assistant.serving.ports import bound

    votes = starting.check(start)
    if share:
        say("--share: whoever has the address can use the model, and what they write passes through gradio's servers")
    if host not in (_HOST, "localhost", "::1"):
        say(f"--host {host}: whoever reaches this machine there can use the model, and run its answers' Python in the sandbox")
    listener = bound(host, port)
    say_loading(" and ".join(filter(None, (start.model, start.base))), as_json=as_json)
    with starting.playground(start, listener, share=share, told=say) as at:
        if as_json:
            print(json.dumps({"url": at.url, "public": at.public, "votes": None if votes is None else str(votes.path)}), flush=True)
        else:
            print(f"the page is at {at.url}")
            if at.public is not None:
                print(f"for everybody: {at.public}")
            if votes is not None:
                print(f"votes go to {votes.path}")
            print("Ctrl-C ends it", flush=True)
        threading.Event().wait()


def _publish(start: "Start", space: str, public: bool, *, as_json: bool) -> None:
    from finetune_assistant.playground.space import publish_space
    from finetune_assistant.playground.start import voice_names
    from finetune_trainer.secrets import Secrets

    if space.count("/") != 1:
        raise typer.BadParameter(f"--space {space} names no organisation or user; use name/space")
    voice_names(start)
    published = publish_space(start, space, Secrets().hub_token(None, "HF_TOKEN"), private=not public)
    if as_json:
        print(json.dumps({"url": published.url, "revision": published.revision, "privateModels": published.private_models}))
        return
    print(f"the page is published to {published.url} at {published.revision[:12]}")
    if published.private_models:
        names = " and ".join(published.private_models)
        print(f"in the Space's settings add a secret HF_TOKEN, of a token that may read {names}")


def _need_gradio() -> None:
    from importlib.util import find_spec

    from finetune_api.errors import NotInstalled

    if find_spec("gradio") is None:
        raise NotInstalled("the playground needs gradio; install it with `pip install 'finetune-operator[playground]'`")

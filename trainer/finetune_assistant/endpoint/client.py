"""Any OpenAI-compatible endpoint as something to ask: paced, retried, paid from a budget, and never asked the same twice.

In: messages. Out: the text of a reply. Every reply is written to a file named by the digest of model, messages and settings before
it is used, so what was paid for survives whatever comes next; that file is the transcript too. The API key is in no file, message or repr.
What is asked, and what a reply means, is unknown here.
"""

import hashlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.errors import EndpointFailed, InvalidEndpoint, NotInstalled
from finetune_api.json_text import json_value
from finetune_assistant.endpoint.budget import Budget, Usage
from finetune_assistant.endpoint.event_loop import EventLoop
from finetune_assistant.endpoint.pace import Pace
from finetune_trainer.files.atomic import write_atomically
from finetune_trainer.secrets import SHORTEST_SECRET

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Message = Mapping[str, str]
_LONGEST_WAIT_SECONDS = 120.0  # between two tries, also where an endpoint asks for more
_SHOWN_CHARACTERS = 200
_SILENCES_A_REPLY = 5


class RequestRefused(EndpointFailed):
    """One request that the endpoint won't answer, such as one that is too long for the model. Others may go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """`base_url` ends where `/chat/completions` is added. `retries`: tries after a failed one, `backoff_seconds` later, then twice that.

    `timeout_seconds`: the longest silence. `reply_seconds`: the longest reply, which may drip; None is five of these silences.
    """

    base_url: str
    model: str
    api_key: str = field(repr=False)
    key_name: str = "OPENAI_API_KEY"  # the variable that the key came from, for messages
    temperature: float = 0.0
    max_tokens: int = 1024
    timeout_seconds: float = 120.0
    reply_seconds: float | None = None
    retries: int = 5
    backoff_seconds: float = 1.0

    def __post_init__(self) -> None:
        """Raises InvalidEndpoint for an address that is none."""
        scheme, _, rest = self.base_url.partition("://")
        if "@" in rest.partition("/")[0]:
            raise InvalidEndpoint(f"--base-url holds a password; leave it out, and put the key into {self.key_name}")
        if scheme not in ("http", "https") or not rest.strip("/"):
            raise InvalidEndpoint(f"--base-url {self.base_url} is no address; give one like http://127.0.0.1:8000/v1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back, now or once before. `cut`: the model's tokens ended before its text did. `request`: the name of the transcript."""

    text: str
    cut: bool
    request: str
    from_cache: bool


@dataclass(slots=True)
class Asked:
    """What happened so far; shown beside the results."""

    sent: int = 0
    from_cache: int = 0
    retried: int = 0
    notes: list[str] = field(default_factory=list)


class _TryAgain(Exception):
    """A try that failed and may succeed later. `after`: seconds that the endpoint asks for."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class Endpoint:
    """One model at one endpoint. For several threads at once."""

    def __init__(self, settings: EndpointSettings, folder: Path, budget: Budget, pace: Pace) -> None:
        """Replies are kept in `folder`, which is made."""
        self._settings, self._folder, self._budget, self._pace = settings, folder, budget, pace
        self._client = _client(settings)
        self._loop = EventLoop()
        self._reply_seconds = settings.reply_seconds or _SILENCES_A_REPLY * settings.timeout_seconds
        self._lock = threading.Lock()
        self._length_name = "max_tokens"
        self._without_temperature = False
        self.asked = Asked()
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.json"):
            if (kept := _read_kept(path)) is not None:
                budget.count(Usage(**kept["usage"]))

    def ask(self, messages: Sequence[Message]) -> Reply:
        """The reply to `messages`: the one that is kept, or a new one.

        Raises BudgetSpent before a request that the budget can't pay, RequestRefused for this request alone, and EndpointFailed or
        InvalidEndpoint where others would fail too; Stopped after `Pace.stop`.
        """
        digest = self._digest(messages)
        path = self._folder / f"{digest}.json"
        kept = _read_kept(path)
        if kept is not None:
            with self._lock:
                self.asked.from_cache += 1
            return _reply(kept, digest, from_cache=True)
        return _reply(self._asked_anew(messages, path), digest, from_cache=False)

    def stop(self) -> None:
        """Whoever waits for a turn gets Stopped; requests that were sent are finished, and kept."""
        self._pace.stop()

    def close(self) -> None:
        """Leave connections."""
        self._loop.run(self._client.close())
        self._loop.close()

    def _digest(self, messages: Sequence[Message]) -> str:
        settings = self._settings
        identity = [settings.model, list(map(dict, messages)), settings.temperature, settings.max_tokens]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

    def _asked_anew(self, messages: Sequence[Message], path: Path) -> dict[str, Any]:
        reserved = self._budget.reserve(messages, self._settings.max_tokens)
        try:
            text, finished, usage, seconds = self._tried(messages)
        except BaseException:
            self._budget.release(reserved)
            raise
        usage = usage or Usage(prompt_tokens=reserved.prompt_tokens, completion_tokens=max(1, len(text.encode()) // 3), estimated=True)
        kept = {
            "model": self._settings.model,
            "messages": list(map(dict, messages)),
            "settings": {"temperature": self._settings.temperature, "max_tokens": self._settings.max_tokens},
            "reply": {"text": self._masked(text), "finish_reason": finished},
            "usage": usage.as_row(),
            "seconds": round(seconds, 3),
        }
        write_atomically(path, json.dumps(kept, ensure_ascii=False, indent=1).encode("utf-8", errors="replace"))
        self._budget.settle(reserved, usage)
        return kept

    def _tried(self, messages: Sequence[Message]) -> tuple[str, str, Usage | None, float]:
        """(text, finish reason, usage, seconds), after as many tries as it takes or the settings allow."""
        wait = self._settings.backoff_seconds
        for left in range(self._settings.retries, -1, -1):
            self._pace.wait()
            began = time.monotonic()
            try:
                with self._lock:
                    self.asked.sent += 1
                return *self._once(messages), time.monotonic() - began
            except _TryAgain as again:
                if not left:
                    raise EndpointFailed(
                        self._told(f"failed {self._settings.retries + 1} times in a row; the last time: {again}")
                    ) from again
                with self._lock:
                    self.asked.retried += 1
                if again.after is not None:  # it speaks to all threads
                    self._pace.pause(min(again.after, _LONGEST_WAIT_SECONDS))
                else:
                    self._pace.sleep(min(wait, _LONGEST_WAIT_SECONDS))
                    wait *= 2
        raise AssertionError("the last try returns or raises")

    def _once(self, messages: Sequence[Message]) -> tuple[str, str, Usage | None]:
        """One request. Raises _TryAgain, or an error that another try won't mend."""
        import openai

        try:
            request = self._client.chat.completions.create(model=self._settings.model, messages=list(messages), **self._parameters())  # type: ignore[arg-type]
            response = self._loop.run(request, seconds=self._reply_seconds)
        except TimeoutError as error:
            raise _TryAgain(f"no whole reply in {self._reply_seconds:g} seconds") from error
        except openai.APITimeoutError as error:
            raise _TryAgain(f"no reply in {self._settings.timeout_seconds:g} seconds") from error
        except openai.APIConnectionError as error:
            raise _TryAgain(f"it can't be reached ({self._short(error.__cause__ or error)})") from error
        except openai.RateLimitError as error:
            if error.code == "insufficient_quota":
                raise EndpointFailed(self._told(f"says that the account has no credit left: {self._short(error)}")) from error
            raise _TryAgain(f"429, too many requests: {self._short(error)}", _retry_after(error.response.headers)) from error
        except openai.APIStatusError as error:
            return self._after_status(error, messages)
        except (openai.OpenAIError, ValueError) as error:  # a body that says JSON and is none
            raise _TryAgain(f"a reply that is no JSON ({self._short(error)})") from error
        return self._read(response)

    def _parameters(self) -> dict[str, Any]:
        temperature = {} if self._without_temperature else {"temperature": self._settings.temperature}
        return {self._length_name: self._settings.max_tokens, **temperature}

    def _after_status(self, error: "Any", messages: Sequence[Message]) -> tuple[str, str, Usage | None]:
        """What a status that is no success means: an error, or once more without a parameter that the model doesn't take."""
        status, said = error.status_code, self._short(error)
        if status in (401, 403):
            raise InvalidEndpoint(
                self._told(f"refuses the key of {self._settings.key_name} ({status}): {said}; set the variable to a key that may use it")
            )
        if status == 404:
            raise InvalidEndpoint(
                self._told(f"knows no such model or address (404): {said}; correct --model, or --base-url, which often ends with /v1")
            )
        if status in (408, 409) or status >= 500:
            raise _TryAgain(f"{status}: {said}", _retry_after(error.response.headers))
        if status in (400, 422) and self._adapted(str(error)):
            return self._once(messages)
        if status in (400, 413, 422):
            raise RequestRefused(f"the endpoint refuses this request ({status}): {said}")
        raise InvalidEndpoint(self._told(f"answers {status}: {said}; correct --base-url"))

    def _adapted(self, said: str) -> bool:
        """Whether a parameter was changed that newer models have under another name, or not at all."""
        with self._lock:
            if "max_completion_tokens" in said and self._length_name == "max_tokens":
                self._length_name = "max_completion_tokens"
                return True
            if "temperature" in said and not self._without_temperature:
                self._without_temperature = True
                self.asked.notes.append("the judge takes no temperature: it may answer otherwise the next time")
                return True
        return False

    def _read(self, response: Any) -> tuple[str, str, Usage | None]:
        """The text of a response, if it is one: the client passes on what it can't read as it is (openai 3.57)."""
        if isinstance(response, str):
            raise _TryAgain(f"a page instead of JSON: {self._short(response)}; is --base-url right?")
        choices = getattr(response, "choices", None)
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = getattr(choice, "message", None)
        if message is None:
            raise _TryAgain(f"JSON without a reply: {self._short(getattr(response, 'error', None) or response)}")
        text = message.content if isinstance(message.content, str) else str(getattr(message, "refusal", None) or "")
        # Half a character, which JSON can hold, could neither be written nor sent again.
        return (
            text.encode("utf-8", errors="replace").decode(),
            str(getattr(choice, "finish_reason", "") or ""),
            _usage(getattr(response, "usage", None)),
        )

    def _told(self, what: str) -> str:
        return self._masked(f"the endpoint {self._settings.base_url} ({self._settings.model}) {what}")

    def _short(self, value: object) -> str:
        return " ".join(self._masked(str(value)).split())[:_SHOWN_CHARACTERS]

    def _masked(self, text: str) -> str:
        """Endpoints may repeat the key that they refuse."""
        # A short one is a word that may stand anywhere, such as the `EMPTY` of servers that want no key.
        return text.replace(self._settings.api_key, "***") if len(self._settings.api_key) >= SHORTEST_SECRET else text


def _client(settings: EndpointSettings) -> "AsyncOpenAI":
    try:
        import openai
    except ModuleNotFoundError as error:
        raise NotInstalled(
            "asking a judge needs the client of OpenAI-compatible endpoints; pip install 'finetune-operator[assistant]'"
        ) from error
    return openai.AsyncOpenAI(
        base_url=settings.base_url, api_key=settings.api_key or "none", timeout=settings.timeout_seconds, max_retries=0
    )


def _usage(usage: Any) -> Usage | None:
    prompt, completion = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    if not isinstance(prompt, int) or not isinstance(completion, int) or prompt < 0 or completion < 0:
        return None
    return Usage(prompt_tokens=prompt, completion_tokens=completion)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an endpoint asks to wait, by its header: seconds, or a date."""
    from email.utils import parsedate_to_datetime

    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _read_kept(path: Path) -> dict[str, Any] | None:
    """A kept reply; None where there is none, or where it is damaged: it is asked for again."""
    try:
        kept = json_value(path.read_text(encoding="utf-8"))
        whole = isinstance(kept["reply"]["text"], str) and Usage(**kept["usage"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return kept if whole else None


def _reply(kept: Mapping[str, Any], digest: str, *, from_cache: bool) -> Reply:
    reply = kept["reply"]
    return Reply(text=reply["text"], cut=reply.get("finish_reason") == "length", request=digest, from_cache=from_cache)

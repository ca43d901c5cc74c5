"""The Hub as a place to publish to: its client, another try for what passes, and its errors in words of ours, which name no token.

In: a token, and something to do with the client. Out: what that returns, or InvalidPublication for what the Hub refuses and
PublicationFailed for what it gave up. What is published is unknown here.

Large files go by LFS, never by Xet: LFS is the protocol that our tests run over the wire, it needs no compiled client, and it
resumes by file. Shards are new weights each time, so Xet's deduplication of chunks would save nothing (huggingface_hub 2.4).
"""

import json
import random
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from finetune_api.errors import FineTuneError, InvalidPublication, PublicationFailed

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Result = TypeVar("Result")
# What huggingface_hub's own retries give up on, and what another try may mend (RFC 9110; 412 is the Hub's "somebody else has committed").
_PASSING_STATUS = (408, 409, 412, 425, 429, 500, 502, 503, 504, 507, 509)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a Hub that fails is tried again: waits double from `wait_seconds` up to a minute."""

    attempts: int = 8
    wait_seconds: float = 2.0
    timeout_seconds: float = 300.0


PATIENCE: Final = Patience()
SHORT_PATIENCE: Final = Patience(attempts=3, timeout_seconds=30.0)  # before hours of work: somebody waits


@contextmanager
def hub_client(token: str | None, repository: str, endpoint: str | None, *, remedy: str = "set HF_TOKEN") -> Iterator["HfApi"]:
    """The Hub through huggingface_hub, by LFS, without its progress bars and its warnings to programmers. Raises InvalidPublication."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not token:
        raise InvalidPublication(f"no token to publish to {repository}; {remedy}, or log in with `hf auth login`")
    xet_was_disabled = constants.HF_HUB_DISABLE_XET
    with warnings.catch_warnings(), disable_progress_bars():
        # httpx2 asks huggingface_hub 2.4 to rename an argument; and the Hub remarks on metadata of cards.
        warnings.filterwarnings("ignore", "Use 'content=<...>'", DeprecationWarning)
        warnings.filterwarnings("ignore", "Warnings while validating metadata", UserWarning)
        # Read at each upload; the environment variable would be read only once, perhaps before us.
        constants.HF_HUB_DISABLE_XET = True
        try:
            yield huggingface_hub.HfApi(endpoint=endpoint, token=token)
        finally:
            constants.HF_HUB_DISABLE_XET = xet_was_disabled


def failed(said: str) -> str:
    """What a user reads of a failure that another try may mend."""
    return f"failed: {said}; publish again when it answers"


def repeated(api: "HfApi", what: str, patience: Patience, act: Callable[[], Result], *, tell: Callable[[str], str] = failed) -> Result:
    """Do it until it succeeds, is refused, or patience is at its end. What arrived in an earlier try is not sent again.

    `what` names the repository, `tell` what another try is about: both for messages.
    """
    import httpx2
    from huggingface_hub import get_session
    from huggingface_hub.errors import HFValidationError

    for attempt in range(patience.attempts):
        # The client has no time limits of its own (huggingface_hub 2.4): a half-open connection would hold us for ever.
        get_session().timeout = httpx2.Timeout(patience.timeout_seconds, connect=min(30.0, patience.timeout_seconds))
        try:
            return act()
        except FineTuneError:
            raise
        except HFValidationError as error:
            raise InvalidPublication(f"{what} is no name of a repository: {error}; use org/name") from None
        except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
            failure = _failure(error, api, f"{what} on {api.endpoint}", tell)
            # A 5xx page that should have been JSON may pass; any other ValueError is about what we sent.
            lasting = isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError)
        if lasting or isinstance(failure, InvalidPublication) or attempt + 1 == patience.attempts:
            # Without its cause: a request carries the token in its headers.
            raise failure from None
        wait = min(60.0, patience.wait_seconds * 2**attempt)
        time.sleep(wait * random.uniform(0.75, 1.25))
    raise AssertionError("patience is at least one attempt")


def _failure(error: BaseException, api: "HfApi", where: str, tell: Callable[[str], str]) -> FineTuneError:
    """InvalidPublication for what the Hub refuses, PublicationFailed for what another try may mend. Names no token."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, ValueError) and str(error).startswith("Invalid metadata in README.md"):
        said = " ".join(str(error).split())
        return InvalidPublication(f"{where}: {said}; mend the metadata at the head of README.md")
    # Failed uploads of LFS files come wrapped in a RuntimeError.
    while not isinstance(error, HfHubHTTPError) and error.__cause__ is not None:
        error = error.__cause__
    said = " ".join(str(getattr(error, "server_message", None) or error or type(error).__name__).split())
    said = said.replace(str(api.token), "***")
    if isinstance(error, OfflineModeIsEnabled):
        return InvalidPublication(f"{where} can't be reached: HF_HUB_OFFLINE is set; unset it to publish")
    # Storage for large files is somewhere else, and its refusals are about a link that has run out.
    if isinstance(error, HfHubHTTPError) and str(error.response.url).startswith(api.endpoint):
        status = error.response.status_code
        if status == 401:
            return InvalidPublication(f"{where}: the Hub does not accept the token ({said}); give a valid one that may write there")
        if status in (402, 403):
            return InvalidPublication(f"{where}: the token may not write there ({said}); give one that may, or choose another repository")
        if status < 500 and status not in _PASSING_STATUS:
            return InvalidPublication(f"{where}: the Hub refuses ({status}: {said}); mend what it names, then publish again")
    return PublicationFailed(f"{where} {tell(said)}")

"""Whose storage it is: one run owns a prefix, and one attempt of it at a time may write.

`identity.json` says which run owns the prefix; it is created once, by the first claim, in an empty prefix, and never changes.
`claims/000001.json`, `claims/000002.json` ... are created by the attempts, each only if absent. The highest number writes; older ones
find out with `check`.
"""

import json
import re
import socket
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from finetune_api.errors import RunConflict
from finetune_api.json_text import json_value
from finetune_trainer.storage.errors import MissingObject
from finetune_trainer.storage.kept_logs import LOGS
from finetune_trainer.storage.protocol import Storage

IDENTITY_KEY = "identity.json"
# No run's own, for a job may still be changed after its preparation: data, named by what it was made from, and what was printed.
_SHARED = ("prepared/", f"{LOGS}/")
_CLAIM_KEY = re.compile(r"claims/(\d{6})\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right of one attempt to commit and delete, until there is a higher number. JSON-able, so that ranks can be told."""

    number: int
    token: (
        str  # random: tells this claim from another of the same number, on a server that let both win; part of the keys of what it writes
    )
    job: str
    host: str
    started: str  # UTC, ISO 8601

    @property
    def key(self) -> str:
        return _key(self.number)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Claim":
        return cls(**value)

    def check(self, storage: Storage) -> None:
        """Raise RunConflict if another attempt has taken over."""
        newest = _newest(storage)
        if newest == self.number and storage.get(self.key) == _bytes(self):
            return
        other = _read(storage, _key(newest)) if newest else {}
        raise RunConflict(
            f"{_where(storage)}: attempt {self.number} of job {self.job!r} was replaced by attempt {other.get('number', '?')}, started "
            f"{other.get('started', 'at an unknown time')} on {other.get('host', 'an unknown host')}; this one writes nothing more. "
            "If both were started by hand, stop one of them"
        )


def check_owner(storage: Storage, *, identity: str, job: str) -> None:
    """See that the prefix is this run's or nobody's, and take nothing: a job whose data turns out to be wrong has not used it.

    Raises RunConflict if it is another's, or in use without an owner.
    """
    if storage.exists(IDENTITY_KEY):
        _refuse_another(storage, identity=identity, job=job)
        return
    foreign = [key for key, _ in storage.list() if not key.startswith((".finetune-", *_SHARED))]
    if foreign and IDENTITY_KEY not in foreign:
        raise RunConflict(
            f"{_where(storage)} holds {len(foreign)} objects that no run owns, such as {foreign[0]}; name an empty prefix or directory"
        )


def own(storage: Storage, *, identity: str, job: str) -> None:
    """Make the prefix this run's, or see that it is. Raises RunConflict as `check_owner` does."""
    check_owner(storage, identity=identity, job=job)
    storage.put_if_absent(IDENTITY_KEY, json.dumps({"identity": identity, "job": job}, sort_keys=True).encode())
    _refuse_another(storage, identity=identity, job=job)


def _refuse_another(storage: Storage, *, identity: str, job: str) -> None:
    owner = _read(storage, IDENTITY_KEY)
    if owner.get("identity") != identity:
        raise RunConflict(
            f"{_where(storage)} belongs to job {owner.get('job', '?')!r} (run {str(owner.get('identity', '?'))[:12]}); this is job {job!r} "
            f"(run {identity[:12]}), whose model, dataset, template or training differs, "
            "or the version that made its ids. "
            "Give this job a storage of its own, or delete what is there"
        )


def claim(storage: Storage, *, identity: str, job: str) -> Claim:
    """Take over a run's prefix: from now on every earlier attempt finds its claim old. Raises RunConflict as `own` does."""
    own(storage, identity=identity, job=job)
    while True:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        mine = Claim(number=_newest(storage) + 1, token=uuid.uuid4().hex, job=job, host=socket.gethostname(), started=started)
        if storage.put_if_absent(mine.key, _bytes(mine)):
            return mine


def seconds_since_first(storage: Storage) -> float:
    """How long ago the first attempt began, by the clocks of its host and of this one; 0 where that isn't known."""
    first = _read(storage, _key(1)).get("started")
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(first)).total_seconds()) if first else 0.0


def _newest(storage: Storage) -> int:
    """The highest claim's number, 0 without one."""
    matches = (_CLAIM_KEY.fullmatch(key) for key, _ in storage.list("claims/"))
    return max((int(match[1]) for match in matches if match), default=0)


def _key(number: int) -> str:
    return f"claims/{number:06d}.json"


def _bytes(one: Claim) -> bytes:
    return json.dumps(one.to_json(), sort_keys=True).encode()


def _read(storage: Storage, key: str) -> dict[str, Any]:
    """A small JSON object; empty if it is not one."""
    try:
        found = json_value(storage.get(key))
    except (ValueError, MissingObject):
        return {}
    return found if isinstance(found, dict) else {}


def _where(storage: Storage) -> str:
    return f"{storage.place.fields.storage}={storage.url}"

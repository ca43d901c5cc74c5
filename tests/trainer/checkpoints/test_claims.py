"""Whose storage it is."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.trainer.memory_storage import MemoryStorage

from finetune_api.errors import RunConflict
from finetune_trainer.checkpoints.claims import Claim, check_owner, claim, own, seconds_since_first
from finetune_trainer.storage.directory import DirectoryStorage

MINE, OTHER = "a" * 64, "b" * 64


def test_an_empty_prefix_becomes_the_runs() -> None:
    storage = MemoryStorage()
    own(storage, identity=MINE, job="fennel")
    own(storage, identity=MINE, job="fennel")
    assert json.loads(storage.objects["identity.json"]) == {"identity": MINE, "job": "fennel"}


def test_the_same_run_under_another_name_goes_on() -> None:
    storage = MemoryStorage()
    own(storage, identity=MINE, job="fennel")
    own(storage, identity=MINE, job="fennel-again")
    assert json.loads(storage.objects["identity.json"])["job"] == "fennel"


def test_another_jobs_prefix_is_refused_with_both_names_and_the_remedy() -> None:
    storage = MemoryStorage()
    own(storage, identity=OTHER, job="dill")
    before = dict(storage.objects)
    with pytest.raises(RunConflict) as caught:
        claim(storage, identity=MINE, job="fennel")
    for words in ("spec.checkpoints.storage=memory", "'dill' (run bbbbbbbbbbbb)", "'fennel' (run aaaaaaaaaaaa)", "a storage of its own"):
        assert words in str(caught.value)
    assert storage.objects == before


def test_a_prefix_in_use_without_an_owner_is_refused() -> None:
    storage = MemoryStorage()
    storage.put("photos/1.jpg", b"x")
    with pytest.raises(RunConflict, match=r"holds 1 objects that no run owns, such as photos/1\.jpg; name an empty prefix"):
        own(storage, identity=MINE, job="fennel")
    assert list(storage.objects) == ["photos/1.jpg"]


def test_prepared_data_is_nobodys() -> None:
    """A job may be changed after its preparation, until it is trained."""
    storage = MemoryStorage()
    storage.put("prepared/0123/complete.json", b"{}")
    storage.put("logs/preparation/fennel-prepare-0123-x/main/000000000000.log", b"{}")
    check_owner(storage, identity=OTHER, job="fennel")
    own(storage, identity=MINE, job="fennel")


def test_a_look_at_a_prefix_takes_nothing() -> None:
    storage = MemoryStorage()
    check_owner(storage, identity=MINE, job="fennel")
    assert storage.objects == {}
    own(storage, identity=OTHER, job="dill")
    check_owner(storage, identity=OTHER, job="dill")
    with pytest.raises(RunConflict, match="belongs to job 'dill'"):
        check_owner(storage, identity=MINE, job="fennel")


def test_leftovers_of_our_own_checks_do_not_count() -> None:
    storage = MemoryStorage()
    storage.put(".finetune-probe-1", b"probe")
    own(storage, identity=MINE, job="fennel")


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b'{"identity": null}'])
def test_an_unreadable_owner_is_not_us(content: bytes) -> None:
    storage = MemoryStorage()
    storage.put("identity.json", content)
    with pytest.raises(RunConflict, match=r"belongs to job '\?'"):
        own(storage, identity=MINE, job="fennel")


def test_of_two_claims_the_later_writes() -> None:
    storage = MemoryStorage()
    first = claim(storage, identity=MINE, job="fennel")
    first.check(storage)
    second = claim(storage, identity=MINE, job="fennel")
    assert (first.number, second.number) == (1, 2)
    assert "claims/000002.json" in storage.objects
    second.check(storage)
    with pytest.raises(
        RunConflict, match=re.escape(f"attempt 1 of job 'fennel' was replaced by attempt 2, started {second.started} on {second.host}")
    ):
        first.check(storage)


def test_a_claim_goes_through_json() -> None:
    one = claim(MemoryStorage(), identity=MINE, job="fennel")
    assert Claim.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_how_long_ago_the_first_attempt_began() -> None:
    storage = MemoryStorage()
    assert seconds_since_first(storage) == 0.0
    first = claim(storage, identity=MINE, job="fennel")
    began = datetime.now(UTC) - timedelta(hours=2)
    storage.put(first.key, json.dumps(replace(first, started=began.isoformat(timespec="seconds")).to_json()).encode())
    claim(storage, identity=MINE, job="fennel")
    assert 7200 <= seconds_since_first(storage) < 7300


def test_a_claim_that_was_overwritten_is_old() -> None:
    """As on a server that ignores If-None-Match: the number is the same, the token is not."""
    storage = MemoryStorage()
    first = claim(storage, identity=MINE, job="fennel")
    storage.put("claims/000001.json", storage.objects["claims/000001.json"].replace(first.token.encode(), b"0" * 32))
    with pytest.raises(RunConflict, match="replaced by attempt 1"):
        first.check(storage)


def test_a_claim_whose_storage_was_emptied_is_old() -> None:
    storage = MemoryStorage()
    first = claim(storage, identity=MINE, job="fennel")
    storage.objects.clear()
    with pytest.raises(RunConflict, match=r"replaced by attempt \?"):
        first.check(storage)


def test_many_attempts_at_once_get_different_numbers(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        numbers = [one.number for one in threads.map(lambda _: claim(storage, identity=MINE, job="fennel"), range(16))]
    assert sorted(numbers) == list(range(1, 17))


def test_two_jobs_at_once_in_an_empty_prefix() -> None:
    storage = MemoryStorage()

    def try_to_own(identity: str) -> bool:
        try:
            own(storage, identity=identity, job=identity[:1])
        except RunConflict:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        owned = list(threads.map(try_to_own, [letter * 64 for letter in "abcdefgh"]))
    assert owned.count(True) == 1

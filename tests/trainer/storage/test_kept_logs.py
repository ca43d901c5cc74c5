"""Logs that are kept: whole lines, each byte once, no secret, and no harm where storage fails."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from finetune_api.errors import StorageFailed
from finetune_trainer.pods.ray_logs import ray_logs
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage import kept_logs as module
from finetune_trainer.storage.directory import DirectoryStorage
from finetune_trainer.storage.kept_logs import End, LogPlace, attempt_name, kept, teed
from finetune_trainer.storage.kept_runs import Stage, kept_runs, life_of, pieces


def text_of(storage: DirectoryStorage, stage: Stage) -> dict[str, dict[str, bytes]]:
    found = kept_runs(storage).get(stage, [])
    return {run.name: {who: b"".join(pieces(storage, log)) for who, log in run.logs.items()} for run in found}


def keys_of(storage: DirectoryStorage) -> list[str]:
    return kept_runs(storage)["training"][0].logs["rank-0"].keys


@pytest.fixture
def storage(tmp_path: Path) -> DirectoryStorage:
    return DirectoryStorage(tmp_path / "storage")


def test_what_is_written_before_and_while_it_is_followed_is_kept_once(storage: DirectoryStorage, tmp_path: Path) -> None:
    log, place = tmp_path / "log", LogPlace()
    log.write_bytes(b"before\n")
    warned: list[str] = []
    with kept(place, "training/1/rank-0", [log], masked=lambda text: text, warn=warned.append, every_seconds=0.01):
        with log.open("ab") as file:
            for number in range(2000):
                file.write(b"line %d\n" % number)
                file.flush()
                if number == 1000:
                    place.storage = storage
        with log.open("ab") as file:
            file.write(b"no end")
    assert text_of(storage, "training") == {"1": {"rank-0": log.read_bytes()}}
    assert warned == []


def test_pieces_end_with_a_line(storage: DirectoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 64)
    log = tmp_path / "log"
    log.write_bytes(b"".join(b"some line %03d\n" % number for number in range(100)))
    with kept(LogPlace(storage), "training/1/rank-0", [log], masked=lambda text: text, warn=pytest.fail):
        pass
    keys = keys_of(storage)
    assert len(keys) > 10
    assert all(storage.get(key).endswith(b"\n") for key in keys)
    assert text_of(storage, "training") == {"1": {"rank-0": log.read_bytes()}}


def test_a_line_longer_than_a_piece_is_kept(storage: DirectoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 64)
    log = tmp_path / "log"
    log.write_bytes(b"x" * 1000 + b"\nend\n")
    with kept(LogPlace(storage), "training/1/rank-0", [log], masked=lambda text: text, warn=pytest.fail):
        pass
    assert text_of(storage, "training") == {"1": {"rank-0": log.read_bytes()}}


def test_a_log_without_end_is_cut_and_says_so(storage: DirectoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 64)
    monkeypatch.setattr(module, "MOST_BYTES", 256)
    log = tmp_path / "log"
    log.write_bytes(b"some line\n" * 100)
    with kept(LogPlace(storage), "training/1/rank-0", [log], masked=lambda text: text, warn=pytest.fail):
        pass
    found = text_of(storage, "training")["1"]["rank-0"]
    assert found.startswith(b"some line\n" * 20)
    assert len(found) < 400
    assert found.endswith(b"are kept)\n")


def test_secrets_are_not_kept(storage: DirectoryStorage, tmp_path: Path) -> None:
    (tmp_path / "secrets" / "hub").mkdir(parents=True)
    (tmp_path / "secrets" / "hub" / "token").write_text("hf_0123456789\n")
    secrets = Secrets(
        {"FINETUNE_SECRETS": str(tmp_path / "secrets"), "AWS_SECRET_ACCESS_KEY": "a-long-secret", "AWS_ACCESS_KEY_ID": "an-id"}
    )
    log = tmp_path / "log"
    log.write_bytes(b"token hf_0123456789 and a-long-secret of an-id\n")
    with kept(LogPlace(storage), "training/1/rank-0", [log], masked=secrets.masked, warn=pytest.fail):
        pass
    assert text_of(storage, "training") == {"1": {"rank-0": b"token *** and *** of an-id\n"}}


SECRET = b"hf_0123456789abcdefghij"


def mask(text: bytes) -> bytes:
    return text.replace(SECRET, b"***")


@pytest.mark.parametrize("before", range(40, 66))
@pytest.mark.parametrize("ends", [True, False], ids=["a line that ends", "a line without end"])
def test_a_secret_across_the_end_of_a_piece_is_not_kept(
    storage: DirectoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, ends: bool
) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 64)
    monkeypatch.setattr(module, "LONGEST_SECRET_BYTES", 32)
    log = tmp_path / "log"
    log.write_bytes(b"x" * before + SECRET + b"y" * 500 + SECRET + b"z" * 20 + (b"\n" if ends else b""))
    with kept(LogPlace(storage), "training/1/rank-0", [log], masked=mask, warn=pytest.fail):
        pass
    assert text_of(storage, "training") == {"1": {"rank-0": mask(log.read_bytes())}}
    keys = keys_of(storage)
    assert len(keys) > 5, "and the pieces aren't endless"


def test_a_secret_across_the_border_of_four_mebibytes_is_not_kept(storage: DirectoryStorage, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * (module.PIECE_BYTES - 5) + SECRET + b"\n")
    with kept(LogPlace(storage), "training/1/rank-0", [log], masked=mask, warn=pytest.fail):
        pass
    found = text_of(storage, "training")["1"]["rank-0"]
    assert found.endswith(b"xxxxx***\n")
    assert len(found) == module.PIECE_BYTES - 5 + 4


def test_secrets_side_by_side_are_not_kept(storage: DirectoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 64)
    monkeypatch.setattr(module, "LONGEST_SECRET_BYTES", 32)
    log = tmp_path / "log"
    log.write_bytes(SECRET * 20)
    with kept(LogPlace(storage), "training/1/rank-0", [log], masked=mask, warn=pytest.fail):
        pass
    assert text_of(storage, "training") == {"1": {"rank-0": b"***" * 20}}


def test_a_secret_that_is_being_written_is_not_kept(storage: DirectoryStorage, tmp_path: Path) -> None:
    """What has no end of a line yet waits for it, or for the end of the program."""
    log, rounds = tmp_path / "log", threading.Semaphore(0)

    class Counted(LogPlace):
        @property
        def storage(self) -> DirectoryStorage:
            rounds.release()
            return storage

        @storage.setter
        def storage(self, value: object) -> None: ...

    log.write_bytes(b"")
    with kept(Counted(), "training/1/rank-0", [log], masked=mask, warn=pytest.fail, every_seconds=0.01):
        for part in (b"token ", SECRET[:9], SECRET[9:15], SECRET[15:] + b" 50%\r", b" 60%", b"\nend"):
            with log.open("ab") as file:
                file.write(part)
            while rounds.acquire(blocking=False):
                pass
            for _ in range(2):  # the second round began after what was written
                assert rounds.acquire(timeout=60)
    assert text_of(storage, "training") == {"1": {"rank-0": b"token *** 50%\r 60%\nend"}}


def test_storage_that_fails_is_told_once_and_caught_up_with(
    storage: DirectoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures, asked = [StorageFailed("away"), StorageFailed("away")], threading.Event()
    put = DirectoryStorage.put

    def sometimes(self: DirectoryStorage, key: str, data: bytes) -> None:
        if failures:
            raise failures.pop()
        asked.set()
        put(self, key, data)

    monkeypatch.setattr(DirectoryStorage, "put", sometimes)
    log, warned = tmp_path / "log", list[str]()
    log.write_bytes(b"a\nb\n")
    with kept(LogPlace(storage), "training/1/rank-0", [log], masked=lambda text: text, warn=warned.append, every_seconds=0.01):
        assert asked.wait(10)
    assert text_of(storage, "training") == {"1": {"rank-0": b"a\nb\n"}}
    assert warned == ["the log is not kept in storage for now: away"]


def test_how_it_ended_is_kept_after_all_that_was_printed(storage: DirectoryStorage, tmp_path: Path) -> None:
    log, place = tmp_path / "log", LogPlace(storage)
    log.write_bytes(b"a line\n")
    with kept(place, "training/1/driver", [log], masked=mask, warn=pytest.fail):
        told = f"no access with {SECRET.decode()}"
        place.end = End(outcome="Failed", reason="StorageFailed", message=told, exit_code=1)
    [run] = kept_runs(storage)["training"]
    life = life_of(storage, run, "driver")
    assert life.end == End(outcome="Failed", reason="StorageFailed", message="no access with ***", exit_code=1)
    assert life.began is not None
    assert life.ended is not None
    assert life.began <= life.ended


def test_who_is_killed_has_begun_and_not_ended(storage: DirectoryStorage, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a line\n")
    with kept(LogPlace(storage), "training/1/driver", [log], masked=mask, warn=pytest.fail):
        pass
    [run] = kept_runs(storage)["training"]
    life = life_of(storage, run, "driver")
    assert (life.began is not None, life.ended, life.end) == (True, None, None)


def test_logs_of_other_programs_are_kept_from_when_they_are_there(
    storage: DirectoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray's on a head: they appear late, one is taken away, each is bounded."""
    monkeypatch.setattr(module, "MOST_BYTES_OF_OTHERS", 40)
    session, log = tmp_path / "logs", tmp_path / "log"
    (session / "events").mkdir(parents=True)
    (session / "raylet.out").write_bytes(b"gone soon\n")
    log.write_bytes(b"driver\n")
    warned: list[str] = []
    with kept(
        LogPlace(storage), "training/1/driver", [log], masked=mask, warn=warned.append, others=lambda: ray_logs("training/1", session)
    ):
        (session / "raylet.out").unlink()
        (session / "gcs_server.err").write_bytes(b"with " + SECRET + b"\n")
        (session / "events" / "event_GCS.log").write_bytes(b"0123456789\n" * 5)
        (session / "dashboard.log").write_bytes(b"not of those\n")
    assert text_of(storage, "training")["1"] == {
        "driver": b"driver\n",
        "ray-gcs_server": b"with ***\n",
        "ray-event_GCS": b"(this log goes on in the pod; only its first 0 MiB are kept)\n",
    }
    assert warned == []


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{", b"[" * 10_000, b'{"time": 5, "outcome": 7}', b'{"time": "2026-11-29T10:00:00"}', b"\xff"]
)
def test_records_of_somebody_else_say_nothing(storage: DirectoryStorage, content: bytes) -> None:
    for name in ("began.json", "ended.json", "000000000000.log"):
        storage.put(f"logs/training/1/driver/{name}", content)
    storage.put("logs/training/1/driver/x/y/z", b"")
    storage.put("logs/other/1/driver/000000000000.log", b"")
    [run] = kept_runs(storage)["training"]
    life = life_of(storage, run, "driver")
    assert (life.began, life.ended, life.end) == (None, None, None)


PRINTS = """
import os, sys, signal
from pathlib import Path
from finetune_trainer.storage.kept_logs import teed
with teed(Path(sys.argv[1])):
    print("out", flush=True)
    print("err", file=sys.stderr)
    os.write(1, b"raw\\n")
    os.system("echo child")
    if len(sys.argv) > 2:
        os.kill(os.getpid(), signal.SIGKILL)
print("after")
"""


@pytest.mark.parametrize("killed", [False, True])
def test_teed_keeps_what_a_killed_process_printed(tmp_path: Path, killed: bool) -> None:
    arguments = [sys.executable, "-c", PRINTS, str(tmp_path / "log"), *(["kill"] if killed else [])]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
    assert (tmp_path / "log").read_text() == "out\nerr\nraw\nchild\n"
    assert done.stdout == "out\nerr\nraw\nchild\n" + ("" if killed else "after\n")


def test_attempts_sort_by_time_and_name_their_cluster() -> None:
    name = attempt_name({"RAY_CLUSTER_NAME": "starchat-1-abcde"})
    assert name.endswith("Z-starchat-1-abcde")
    assert attempt_name({}).endswith("-here")


def test_teed_works_in_this_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with teed(tmp_path / "deep" / "log"):
        os.write(1, b"raw\n")
    assert (tmp_path / "deep" / "log").read_text() == "raw\n"
    assert capfd.readouterr().out == "raw\n"


def test_a_full_disk_under_what_is_printed_fails_nothing(
    storage: DirectoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").write_text("a line\n")
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        try:
            full.write("there is no room for this\n")
            place = LogPlace(storage=storage, end=End(outcome="Done"))
            with kept(place, "training/a/driver", [tmp_path / "log"], masked=lambda data: data, warn=pytest.fail):
                pass
        finally:
            monkeypatch.undo()
            with pytest.raises(OSError, match="No space left"):
                full.flush()
            with open(os.devnull, "w") as null:
                os.dup2(null.fileno(), full.fileno())  # so that it can be closed
    (life,) = (life_of(storage, attempt, "driver") for attempt in kept_runs(storage)["training"])
    assert life.end is not None
    assert life.end.outcome == "Done"

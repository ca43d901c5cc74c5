"""benchmarks/checkpoints_*.py: what is counted, the slow link, and the section with its goals."""

import socket
import threading
from typing import Any

from benchmarks.checkpoints_bytes import WORLDS, counted
from benchmarks.checkpoints_document import checkpoints_section
from benchmarks.checkpoints_link import link

SHAPES = {f"layers.{number}.weight": (1024, 1280) for number in range(12)} | {"norm.weight": (1280,)}


def test_bytes_are_read_once_by_one_node_and_by_many() -> None:
    found = counted(SHAPES)
    assert {found[str(then)]["export"] for then in WORLDS} == {1.0}
    restores = [sizes for then in WORLDS for sizes in found[str(then)]["restore"].values()]
    assert {ratio for sizes in restores for ratio in sizes.values()} == {1.0}


def test_bytes_of_a_model_too_small_for_columns_are_read_by_every_rank() -> None:
    found = counted({"a": (100, 100), "b": (100, 100)})["1"]["restore"]
    assert (found["16"]["shared"], found["16"]["alone"], found["16"]["two_nodes"]) == (1.0, 16.0, 2.0)


def test_a_slow_link_changes_no_byte() -> None:
    sent = bytes(range(256)) * 4096
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo() -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as stream:
                connection.sendall(stream.read(len(sent)))

        threading.Thread(target=echo, daemon=True).start()
        with link(f"http://127.0.0.1:{server.getsockname()[1]}", 100e6) as endpoint:
            host, port = endpoint.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port)), timeout=60) as client, client.makefile("rb") as answer:
                client.sendall(sent)
                assert answer.read(len(sent)) == sent


def measured(*, blocked: float) -> dict[str, Any]:
    """One model; ours waits so long."""
    run = {"seconds": 50.0, "blocked_seconds": blocked, "processor_seconds": 60.0, "step_seconds": 1.0, "others": 0.01}
    run |= {"all_seconds": [50.0], "all_blocked_seconds": [blocked]}
    slow = run | {"seconds": 70.0, "blocked_seconds": 21.0}
    spent = {"seconds": [1.0, 0.9], "processor_seconds": [0.5, 0.6]}
    ends = {"libraries and process group": 10.0, "model and engine": 12.0, "restore": 22.0, "first step": 24.0}
    ends = {part: seconds / 2 for part, seconds in ends.items()}
    restore = {"seconds": 2.0, "processor_seconds": 1.0, "others": 0.0}
    return {
        "machine": {"processor": "P", "cores": 2, "memory_gib": 24, "system": "Linux x86_64", "python": "3.11.7"},
        "versions": {"torch": "2.13.0"},
        "ended": "2026-12-01 05:00",
        "before": "6bee474",
        "repeats": 1,
        "link": 60e6,
        "throughput": {"the slow link": {"ours": spent, "plain": spent, "bytes": 10**8, "others": 0.0}},
        "models": {
            "small": {
                "train": {
                    "none": run | {"seconds": 49.0, "blocked_seconds": 0.0},
                    "ours": run | {"write_seconds": 20.0, "part_bytes": 1000, "snapshot_bytes": 1010},
                    "before": slow,
                    "deepspeed": slow,
                    "dcp": slow,
                },
                "restore": {
                    **{name: restore for name in ("s3-2", "s3-1", "s3-3", "folder-ours-1")},
                    "folder-deepspeed-1": restore | {"seconds": 12.0, "conversion_seconds": 9.0},
                },
                "restart": {"the slow link": {"ends": ends, "others": 0.0}},
                "bytes": counted(SHAPES),
            }
        },
    }


def test_goals_are_met_or_missed_by_what_was_measured() -> None:
    section = checkpoints_section(measured(blocked=0.5))
    assert "| Llama, 34 M: blocked before / ours | at least 20x | 42.0x | met |" in section
    assert "| Llama, 34 M: added before / ours | at least 3x | 21.0x | met |" in section
    assert "| Llama, 34 M: `ds_to_universal` and load, 2 to 1 / ours | at least 5x | 6.0x | met |" in section
    assert "| Llama, 34 M, state by the slow link | 5.0 | 6.0 | 11.0 | 12.0 | 42% | 0% |" in section
    assert "| Llama, 34 M: new processes to their first step, state by the slow link | at most 15 s | 12.0 s | met |" in section
    assert "| Llama, 34 M: bytes read / needed, by ranks on nodes of their own | at most 1.05x | 1.00x | met |" in section
    assert "missed" not in section
    assert "| Llama, 34 M: blocked before / ours | at least 20x | 10.5x | **missed** |" in checkpoints_section(measured(blocked=2.0))


def test_it_says_how_it_was_measured() -> None:
    section = checkpoints_section(measured(blocked=0.5))
    for text in ("behind a link of 60 MB/s", "the trainer at 6bee474", "Measured until 2026-12-01 05:00 UTC on 2 cores of P"):
        assert text in section

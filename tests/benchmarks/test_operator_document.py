"""benchmarks/operator_document.py"""

from typing import Any

from benchmarks.operator_document import with_operator

SPENT: dict[str, Any] = {
    "seconds": 9.0,
    "seconds_afterwards": 4.0,
    "cpu_seconds": 5.0,
    "peak_memory_mib": 90,
    "calls": {"POST": 20, "PATCH": 10},
    "cluster_cpu_seconds": {"etcd": 1.0, "kube-apiserver": 7.0},
}
REACTIONS = {kind: {"p50": 200.0, "p99": 1600.0, "most": 1700.0} for kind in ("failure", "suspend", "write")}
URGENT: dict[str, Any] = {
    "reactions_ms": REACTIONS,
    "drivers": {"reports": 990, "seconds": 10.0},
    "status_writes": 50,
    "seconds": 10.0,
    "cpu_share": 0.2,
    "api_server_cpu_share": 0.5,
    "others": 0.03,
}
FOUND: dict[str, Any] = {
    "jobs": 10,
    "cores": 2,
    "trainer": SPENT | {"others": 0.0},
    "trainer_raised": SPENT | {"others": None},
    "life": {"preparations": SPENT, "rayjobs": SPENT, "events": 10, "others": 0.5},
    "urgent": URGENT,
    "former": {"what": "1dc2dff", "urgent": URGENT | {"cpu_share": 0.9}},
    "growth": [{"jobs": 5, **SPENT}, {"jobs": 10, **SPENT}],
    "limits": {"qps": 1000},
    "ended": "2026-11-29 21:00",
}


def test_the_section_alone_is_written_anew_and_says_when() -> None:
    page = with_operator("# Benchmarks\n\nkept\n\n## Operator\n\nold\n\n### Below\n\nold\n\n## On a GPU\n\nkept\n", FOUND)
    assert page.startswith("# Benchmarks\n\nkept\n\n## Operator\n")
    assert page.endswith("\n\n## On a GPU\n\nkept\n")
    assert "old" not in page
    assert "Measured until 2026-11-29 21:00 UTC." in page
    assert "| a failure to its status, p50 | at most 300 ms | 200 ms | met |" in page
    assert "| a suspend to its status, p99 | at most 1500 ms | 1600 ms | **missed** |" in page
    assert "| calls a job to its preparation Job, beside one event | at most 2.2 | 2.00 | met |" in page


def test_another_build_stands_beside_ours() -> None:
    ours, other = (line for line in with_operator("## Operator\n\n## Next\n", FOUND).splitlines() if line.endswith("| 50% | 3% |"))
    assert ours.startswith("| ours | 200 | 1,600 | 200 | 1,600 |")
    assert other.startswith("| 1dc2dff | 200 | 1,600 |")
    assert "| 90% |" in other


def test_what_the_cluster_alone_takes_is_told_beside_the_goal() -> None:
    page = with_operator("## Operator\n\nold\n\n## On a GPU\n", FOUND)
    assert "| the same, 0.7 of Trainer with raised limits | at most 6.3 s | 9.0 s | **missed** |" in page
    assert "need 4.0 s of both cores" in page

"""finetune_trainer/training/host_memory.py, on files as Linux shows them, and on this machine."""

from pathlib import Path

from finetune_trainer.training.host_memory import available_memory_bytes

GIB = 2**30


def system(folder: Path, *, free: int, limit: str | None = None, used: int = 0, cache: int = 0) -> Path:
    files = {"proc/meminfo": f"MemTotal:       67108864 kB\nMemAvailable:   {free // 1024} kB\n"}
    if limit is not None:
        files |= {
            "sys/fs/cgroup/memory.max": f"{limit}\n",
            "sys/fs/cgroup/memory.current": f"{used}\n",
            "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {cache}\n",
        }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="ascii")
    return folder


def test_the_machine_or_the_container_whichever_has_less(tmp_path: Path) -> None:
    assert available_memory_bytes(system(tmp_path / "a", free=8 * GIB)) == 8 * GIB
    assert available_memory_bytes(system(tmp_path / "b", free=8 * GIB, limit="max", used=GIB)) == 8 * GIB
    assert available_memory_bytes(system(tmp_path / "c", free=8 * GIB, limit=str(4 * GIB), used=3 * GIB, cache=GIB // 2)) == GIB + GIB // 2
    assert available_memory_bytes(system(tmp_path / "d", free=GIB, limit=str(4 * GIB), used=0)) == GIB


def test_nothing_is_said_where_the_system_says_nothing(tmp_path: Path) -> None:
    assert available_memory_bytes(tmp_path) is None


def test_this_machine_tells() -> None:
    assert (available_memory_bytes() or 0) > 2**20

"""What Ray itself writes on the head and what a post-mortem wants of it: nodes that die, workers that are killed, how many are asked for.

Not its dashboard's, its agents' and its workers' files: what ranks print is kept by the ranks.
"""

from pathlib import Path
from typing import Final

from finetune_trainer.storage.kept_logs import STDERR

# Of the head that KubeRay starts.
SESSION_LOGS: Final = Path("/tmp/ray/session_latest/logs")
# Nodes and actors; leases and workers killed for memory; the autoscaler; Ray's events; the controller of Ray Train.
_FILES: Final = (
    "gcs_server.out",
    "gcs_server.err",
    "raylet.out",
    "raylet.err",
    "monitor.log",
    "events/event_*.log",
    "train/ray-train-*.log",
)
_MOST_FILES: Final = 32


def ray_logs(folder: str, logs: Path = SESSION_LOGS) -> dict[str, Path]:
    """The files that are there now, by where they are kept: `<folder>/ray-raylet`, and what it writes to stderr as `ray-raylet-stderr`."""
    found = [path for pattern in _FILES for path in sorted(logs.glob(pattern)) if path.is_file()]
    return {f"{folder}/{_name(path)}": path for path in found[:_MOST_FILES]}


def _name(path: Path) -> str:
    """
    >>> _name(Path("gcs_server.err")), _name(Path("train/ray-train-app-controller-1.log"))
    ('ray-gcs_server-stderr', 'ray-train-app-controller-1')
    """
    return f"ray-{path.stem.removeprefix('ray-')}" + (STDERR if path.suffix == ".err" else "")

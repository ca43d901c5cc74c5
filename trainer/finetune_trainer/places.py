"""Where a worker finds a run's files, as the driver tells it: folders that every worker sees."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Absolute paths. `base` is where relative paths of the job begin; `storage` holds checkpoints when the job names none."""

    model: str
    prepared: str
    base: str
    storage: str

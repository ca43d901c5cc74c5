"""Where a worker finds a run's files: folders of its node. On one machine the driver knows them; in pods each node fetches its own."""

from dataclasses import dataclass, replace
from typing import Protocol

from finetune_api.training_run import TrainingRun
from finetune_trainer.training.profiling import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Absolute paths. `base` is where relative paths of the job begin; `storage` holds checkpoints when the job names none.

    `weights`: whether those of the base model are to be read; where not, all values come from a checkpoint, and `model` may lack them.
    `profile`: which steps are traced, and where the traces are written.
    """

    model: str
    prepared: str
    base: str
    storage: str
    weights: bool = True
    profile: Profile | None = None

    def here(self, run: TrainingRun, *, weights: bool) -> "Places":
        """These folders: every worker sees them."""
        return replace(self, weights=weights)

    def nodes(self, run: TrainingRun) -> int:
        """This machine, however many the job asks for."""
        return 1


class Placement(Protocol):
    """Tells a rank where its node has the run's files, fetching them first where that is needed. Crosses processes.

    `base` and `storage`, as in Places, are known before anything is fetched.
    """

    @property
    def base(self) -> str: ...

    @property
    def storage(self) -> str: ...

    def here(self, run: TrainingRun, *, weights: bool) -> Places:
        """The folders on this rank's node; of the base model without its weights where nobody will read them."""
        ...

    def nodes(self, run: TrainingRun) -> int:
        """How many of Ray's nodes the workers are spread over, evenly."""
        ...

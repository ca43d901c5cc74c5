"""Every error that a user may meet, with its exit code and its reason.

FineTuneError
├── InvalidInput            exit 2   what was given is wrong; the same command fails again until it is changed
│   ├── InvalidSpec                  the FineTuneJob: all problems at once, each with field, value and remedy
│   ├── InvalidData                  a data source or one of its rows
│   ├── InvalidModel                 a model, a revision or a tokenizer that can't be used
│   ├── InvalidStorage               checkpoint storage that can't be reached or written with these settings
│   ├── InvalidPublication           a repository or a token that the Hub refuses
│   ├── InvalidTrainingRun           a run.json that is damaged or of another contract version
│   ├── RunConflict                  a run folder or a storage prefix that belongs to another run, or is in use
│   ├── InvalidCluster               a cluster, a job on it or a right that isn't there
│   ├── InvalidEndpoint              an address, a key or a model that an endpoint refuses
│   ├── UnknownTask                  a task of an evaluation that nobody defines
│   ├── NoSandbox                    code of a model that can't be confined on this machine
│   └── NotInstalled                 a package that an extra of ours brings isn't there
├── RunFailed               exit 1   the input is right as far as we know, and the run failed all the same
│   ├── StorageFailed                storage gave up in the middle: full, cut off, or its objects altered
│   ├── TrainingFailed               a worker died
│   │   ├── WorkerPreempted          a worker's node or pod was taken away by others
│   │   ├── WorkerLost               a worker's node or pod went away without a word
│   │   ├── NoProgress               ranks neither stepped nor did anything else for too long
│   │   ├── FaultyNode               a node computes wrongly, or far too slowly
│   │   ├── OutOfMemory              a rank needed more memory than its GPU or its machine had
│   │   └── NonFiniteLoss            loss or gradient of a step is NaN or infinite
│   ├── PublicationFailed            the Hub gave up in the middle; what was exported is kept
│   ├── JobFailed                    a job on a cluster failed
│   ├── WaitedTooLong                a job on a cluster didn't get there in the time that was given
│   ├── ClusterFailed                the API server doesn't answer, or not as it should
│   ├── EndpointFailed               the endpoint of a judge is down or overloaded, or answers what can't be used
│   └── BudgetSpent                  the next request to an endpoint could cost more than is left
└── Interrupted             exit 130 stopped on request, after a checkpoint
"""

from dataclasses import dataclass
from typing import Any


class FineTuneError(Exception):
    """The base of all of them. `str(error)` is a whole message for a user: what, where, the remedy; never a secret.

    `reason` is the CamelCase word that conditions, termination messages and JSON output carry.
    """

    exit_code = 1

    @property
    def reason(self) -> str:
        """The class name: one word per kind of failure, the same everywhere."""
        return type(self).__name__

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors travel from ranks to the driver. Exception's own way calls the class with `args`, the message, whatever it takes."""
        return _unpickled, (type(self), self.args), self.__dict__


def _unpickled(kind: type[FineTuneError], arguments: tuple[Any, ...]) -> FineTuneError:
    return kind.__new__(kind, *arguments)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a FineTuneJob: `field` is its path, as in `spec.training.epochs`."""

    field: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" + (f"; {self.remedy}" if self.remedy else "")


class InvalidInput(FineTuneError):
    """What was given is wrong."""

    exit_code = 2


class InvalidSpec(InvalidInput):
    """The FineTuneJob is wrong; `problems` holds everything that is, in the order of the spec.

    >>> print(InvalidSpec([Problem("spec.training.epochs", "0 is less than 1", "use 1 or more")]))
    spec.training.epochs: 0 is less than 1; use 1 or more
    """

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class InvalidData(InvalidInput):
    """A data source or a row is wrong: the message names source, row and reason."""


class InvalidModel(InvalidInput):
    """A model, a revision or a tokenizer can't be used."""


class InvalidStorage(InvalidInput):
    """Checkpoint storage can't be used with these settings: endpoint, bucket, key or path."""


class InvalidPublication(InvalidInput):
    """The Hub refuses the repository or the token."""


class InvalidTrainingRun(InvalidInput):
    """A run.json that this version can't read: damaged, or written under another contract."""


class RunConflict(InvalidInput):
    """A run folder or storage prefix belongs to another run, or another process is using it."""


class InvalidCluster(InvalidInput):
    """A cluster, a job on it or a right that isn't there."""


class InvalidEndpoint(InvalidInput):
    """An endpoint refuses the address, the key, the model or a setting: asking again won't help."""


class UnknownTask(InvalidInput):
    """A name of a task that is neither ours nor lm-eval's."""


class NoSandbox(InvalidInput):
    """This machine can't enforce the sandbox's limits; the message names which, and the remedy. Nothing has run."""


class NotInstalled(InvalidInput):
    """A package that an extra of ours brings isn't there; the message names the extra."""


class RunFailed(FineTuneError):
    """The run failed for a reason that lies outside the input."""


class StorageFailed(RunFailed):
    """Storage failed in the middle: full, cut off, or holding objects that don't match their digests."""


class TrainingFailed(RunFailed):
    """A worker died, or failed in a way that nobody foresaw."""


class WorkerPreempted(TrainingFailed):
    """A worker's node or pod was taken away by others, who said so to Ray."""


class WorkerLost(TrainingFailed):
    """A worker's node or pod went away, and nobody said why."""


class NoProgress(TrainingFailed):
    """The ranks may be alive, and nothing of what they do gets on."""


class FaultyNode(TrainingFailed):
    """The check at an attempt's start found a node that computes wrongly, or far too slowly."""


class OutOfMemory(TrainingFailed):
    """A rank needed more memory than there was: fewer rows in a micro-batch may fit, with the same steps."""


class NonFiniteLoss(TrainingFailed):
    """Loss or gradient of a step is NaN or infinite; the message names the step. The state is that before the step."""


class PublicationFailed(RunFailed):
    """Publication failed in the middle; the exported model is kept."""


class JobFailed(RunFailed):
    """A job on a cluster failed."""


class WaitedTooLong(RunFailed):
    """A job on a cluster didn't get there in the time that was given."""


class ClusterFailed(RunFailed):
    """The API server of a cluster doesn't answer, or not as it should."""


class EndpointFailed(RunFailed):
    """An endpoint is down, overloaded or answers nonsense, after all retries."""


class BudgetSpent(RunFailed):
    """The next request could cost more than is left."""


class Interrupted(FineTuneError):
    """Stopped on request, after a checkpoint was committed."""

    exit_code = 130

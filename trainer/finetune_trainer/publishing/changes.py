"""What a publication has to do, decided before anything is sent: pure values and rules.

In: the digests of an exported folder, of a repository's files, and the record of an earlier publication there. Out: which files
to send, which to delete, which to leave alone, or a refusal. `publish` carries it out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from finetune_api.errors import InvalidPublication, PublicationFailed
from finetune_api.evaluation_summary import EvaluationSummary
from finetune_api.finetunejob import Gate
from finetune_trainer.publishing.model_folder import ExportRecord, FileDigest, is_weights

README = "README.md"
ATTRIBUTES = ".gitattributes"  # the Hub's own: which files are in LFS


class GateClosed(PublicationFailed):
    """A gate of the job refuses the model: another try changes nothing."""

    @property
    def reason(self) -> str:
        return PublicationFailed.__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Where a model was published. `revision` is the commit on the Hub; for a directory the sha256 of its record."""

    repository: str
    revision: str
    url: str
    sent: tuple[str, ...]
    sent_bytes: int
    deleted: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    created: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of a repository: `sha256` for LFS files, git's blob sha1 for the others."""

    size: int
    sha256: str | None
    blob_sha1: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a commit has to do. `kept` are files of ours that somebody has edited at the remote since."""

    send: tuple[str, ...]
    delete: tuple[str, ...]
    kept: tuple[str, ...]


def matches(file: FileDigest, remote: RemoteFile) -> bool:
    """Whether the content is equal, by the digest that the remote knows."""
    known = (file.sha256, remote.sha256) if remote.sha256 is not None else (file.blob_sha1, remote.blob_sha1)
    return file.size == remote.size and known[0] == known[1]


def changes(
    local: Mapping[str, FileDigest], remote: Mapping[str, RemoteFile], previous: ExportRecord | None, *, inherited: bool = False
) -> Changes:
    """What a commit has to do so that the remote holds `local`; `previous` is the record of our earlier publication there.

    A file of that publication which is no longer part of the model, an old shard for example, is deleted, unless somebody has
    replaced it since. A README that somebody has edited since stays. `inherited`: the branch has no commit of its own and shows
    another branch's files; there they stay, and here they go.
    """
    ours = previous.files if previous is not None else {}
    same = {path for path in local if path in remote and matches(local[path], remote[path])}
    if inherited:
        return Changes(send=tuple(sorted(local.keys() - same)), delete=tuple(sorted(remote.keys() - local.keys() - {ATTRIBUTES})), kept=())
    edited = {path for path in ours if path in remote and not matches(ours[path], remote[path])} - same
    kept = edited & {README}
    return Changes(
        send=tuple(sorted(local.keys() - same - kept)),
        delete=tuple(sorted((ours.keys() & remote.keys()) - local.keys() - edited)),
        kept=tuple(sorted(kept)),
    )


def refused_by_gate(gate: Gate, evaluation_loss: float | None, step: int, evaluation: EvaluationSummary | None = None) -> str | None:
    """Why the model of `step` may not be published; None when it may. What was not measured, or is NaN, passes no gate.

    `evaluation`: what was measured after training; that of another step says nothing.

    >>> from finetune_api.finetunejob import Maximum, Minimum
    >>> refused_by_gate(Gate(evaluation_loss=Maximum(max=1.5)), 2.0, 8)
    'spec.publish.gate.evaluationLoss.max=1.5, and the evaluation loss of step 8 is 2.0000'
    >>> refused_by_gate(Gate(judge_win_rate=Minimum(min=0.6)), None, 8)
    'spec.publish.gate.judgeWinRate.min=0.6, and no judge compared step 8 with its base'
    """
    allowed = gate.evaluation_loss
    if allowed is not None and not (evaluation_loss is not None and evaluation_loss <= allowed.max):
        measured = "was not measured" if evaluation_loss is None else f"is {evaluation_loss:.4f}"
        return f"spec.publish.gate.evaluationLoss.max={allowed.max:g}, and the evaluation loss of step {step} {measured}"
    wanted = gate.judge_win_rate
    judge = evaluation.judge if evaluation is not None and evaluation.step == step else None
    if wanted is None or (judge is not None and judge.low >= wanted.min):
        return None
    if judge is None:
        return f"spec.publish.gate.judgeWinRate.min={wanted.min:g}, and no judge compared step {step} with its base"
    found = f"{judge.model} preferred it to its base on {judge.wins} of {judge.prompts} prompts"
    return f"spec.publish.gate.judgeWinRate.min={wanted.min:g}, and {found}: the rate's 95 % interval begins at {judge.low:.3f}"


def judge_goes_on(gate: Gate, evaluation: EvaluationSummary) -> bool:
    """Whether a judge whose tokens had ended before the last pair is asked on: a gate, which may have come since, wants a higher rate."""
    wanted, judge = gate.judge_win_rate, evaluation.judge
    return wanted is not None and judge is not None and judge.partial and judge.low < wanted.min


def check_owner(repository: str, remote: Iterable[str], previous: ExportRecord | None, job: str) -> None:
    """Refuse a repository that holds the weights of something else: two models' files in one folder load as neither."""
    if previous is not None and previous.job != job:
        raise InvalidPublication(
            f"{repository} holds the model of job {previous.job}, not of {job}; publish to another repository or revision"
        )
    weights = sorted(filter(is_weights, remote))
    if previous is None and weights:
        raise InvalidPublication(
            f"{repository} holds another model ({', '.join(weights[:3])}{' ...' if len(weights) > 3 else ''}); "
            "publish to another repository or revision, or delete these files on the Hub first"
        )

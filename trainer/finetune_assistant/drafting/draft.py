"""What was found -> a commented FineTuneJob of at most 25 lines, and one for each further source, that `plan` accepts.

In: a model, sources and a machine as they were found, what the user wants beside them, and what another trainer's file gave. Out: YAML.
What a file gave is never changed, only left out where a job can't be so; what it leaves open is drafted, and each number says why it is
that. Pure: nothing is opened or asked here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import PurePath
from typing import Final

from finetune_api.batch_size import fitting_batch_size
from finetune_api.errors import InvalidSpec
from finetune_api.finetunejob import FineTuneJob
from finetune_api.finetunejob.places import is_path
from finetune_api.jobfile import parse_job
from finetune_api.plan import plan
from finetune_api.yaml_text import yaml_value
from finetune_assistant.drafting.acceptance import told
from finetune_assistant.drafting.fields_below import Fields, nested
from finetune_assistant.drafting.fitting import fitting_length, fitting_micro_batch_size, gpus_for, num_rows
from finetune_assistant.drafting.found import FoundModel, FoundSource
from finetune_assistant.drafting.job_text import job_text
from finetune_assistant.drafting.sayings import TEMPLATES, called, header, notes, source_comment, where
from finetune_assistant.drafting.translation import FOLDER, NOTHING_GIVEN, Translation
from finetune_trainer.machine import ThisMachine
from finetune_trainer.reporting.readable import count

_BUCKET: Final = "s3://your-bucket"
# Held out of so many conversations: at least some dozens where that is possible, and no more than is quickly evaluated.
_LEAST_HELD_OUT_OF: Final = 20
_FRACTIONS: Final = ((20_000, 0.02), (2_000, 0.05), (_LEAST_HELD_OUT_OF, 0.1))
_UNKNOWN_FRACTION: Final = 0.05
_EPOCHS: Final = 3
# Of more wrong rows than these the format is doubtful, and dropping them would hide it.
_MOST_WRONG: Final = 0.05
_SMALL_MODEL: Final = 10**9
_DEFAULT_LENGTH: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user asks for beside model and data. `gpus`: of each node; None takes those of the machine."""

    name: str
    cluster: bool = False
    gpus: int | None = None
    directory: str | None = None
    hub: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The file, the job in it, what is to be known beside it, and fields of another trainer's file that no job takes: key -> reason."""

    text: str
    job: FineTuneJob
    notes: tuple[str, ...] = ()
    left: dict[str, str] = field(default_factory=dict)


def draft(
    wishes: Wishes, model: FoundModel, sources: Sequence[FoundSource], machine: ThisMachine, given: Translation = NOTHING_GIVEN
) -> Draft:
    """The job. Raises InvalidSpec for a wish that no job can have, such as a name."""
    left: dict[str, str] = {}
    if wishes.cluster and nested(given.spec, FOLDER) is not None:
        left |= dict.fromkeys(
            given.origin[FOLDER], "pods see no folder of this machine; the model stays in checkpoints.storage, or goes to the Hub"
        )
        given = given.without(FOLDER)
    if wishes.hub or wishes.directory:
        left |= dict.fromkeys([*given.keys_of("publish.hub"), *given.keys_of("publish.directory")], "another place was asked for")
        given = given.without("publish.hub").without("publish.directory")
    if model.template_fault:
        left |= dict.fromkeys(given.keys_of("template"), model.template_fault)
        given = given.without("template")
    while True:
        try:
            fields = _drafted(wishes, model, sources, machine, given)
            begin = [header(model, sources), where(machine, cluster=wishes.cluster)]
            text = job_text(begin, wishes.name, fields.lines(), fields.comments)
            job = parse_job(yaml_value(text, "the draft"))
            plan(job, model.shape, None)
        except InvalidSpec as refused:
            found = {path: problem for problem in refused.problems if (path := given.path_of(problem.field))}
            if not found:
                raise
            for path, problem in found.items():
                left |= dict.fromkeys(given.origin[path], told(problem))
                given = given.without(path)
        else:
            return Draft(text=text, job=job, notes=tuple(notes(model, sources, job, None if wishes.cluster else machine)), left=left)


def _drafted(wishes: Wishes, model: FoundModel, sources: Sequence[FoundSource], machine: ThisMachine, given: Translation) -> Fields:
    fields = Fields(given.spec, given.comments())
    _draft_model(fields, wishes, model)
    _draft_data(fields, wishes, sources, holds_nothing_out=given.holds_nothing_out)
    _draft_length(fields, model, sources)
    _draft_training(fields, wishes.gpus or (0 if wishes.cluster else machine.gpus or 0), model, sources)
    _draft_places(fields, wishes)
    _draft_workers(fields, wishes, model, machine)
    return fields


# ---- what is learnt from


def _draft_model(fields: Fields, wishes: Wishes, model: FoundModel) -> None:
    spec = model.spec.model_dump(by_alias=True, exclude_defaults=True)
    said = []
    if wishes.cluster and is_path(model.spec.name):
        spec["name"] = f"{_BUCKET}/{PurePath(model.spec.name).name}"
        said.append(f"yours: {model.spec.name} copied there, for pods see no disk of this machine")
    if (shape := model.shape) is not None:
        positions = f", {shape.positions:,} positions" if shape.positions else ""
        said.append(f"{shape.architecture}, {count(shape.parameters)} parameters{positions}")
    if model.spec.initialization == "random":
        said.append("the folder has no weights: it begins with random ones")
    fields.spec["model"] = spec
    fields.say("model", "; ".join(said))
    if model.template_fault:
        fields.draft("template.name", "default", f"no other can be used: {model.template_fault}")
    elif "template" not in fields.spec and model.template is not None:
        fields.say("template", TEMPLATES[model.template])


def _draft_data(fields: Fields, wishes: Wishes, sources: Sequence[FoundSource], *, holds_nothing_out: bool) -> None:
    listed = []
    for index, found in enumerate(sources):
        source = found.source.model_dump(by_alias=True, exclude_defaults=True)
        said = source_comment(found)
        if wishes.cluster and is_path(found.source.path):
            source["path"] = f"{_BUCKET}/{PurePath(found.source.path).name}"
            said = f"yours: {found.source.path} copied there; {said}"
        listed.append(source)
        fields.say(f"dataset.sources[{index}]", said)
    fields.draft("dataset.sources", listed)
    if not holds_nothing_out and not fields.has("dataset.evaluation"):
        _draft_evaluation(fields, sources)
    wrong, rows = sum(found.wrong for found in sources), sum(found.rows for found in sources)
    if wrong and not fields.has("dataset.maxInvalidRows"):
        first = next(found.first_wrong for found in sources if found.wrong)
        if wrong <= _MOST_WRONG * rows and all(found.is_all for found in sources):
            fields.draft("dataset.maxInvalidRows", wrong, f"wrong rows, which are left out and counted; the first: {first}")
        else:
            fields.say("dataset.maxInvalidRows", f"so that {wrong:,} wrong rows refuse the data: correct them; the first: {first}")


def _draft_evaluation(fields: Fields, sources: Sequence[FoundSource]) -> None:
    if sources and all(found.has_test for found in sources):
        fields.draft("dataset.evaluation.split", "test")
        fields.say("dataset.evaluation", "the data has a split for it")
        return
    trees = sum(found.trees for found in sources)
    if any(found.away for found in sources):
        fields.draft("dataset.evaluation.fraction", _UNKNOWN_FRACTION)
    elif trees < _LEAST_HELD_OUT_OF:
        fields.say("dataset.evaluation", f"too few conversations ({trees}) to hold some out")
    else:
        fraction = next(share for least, share in _FRACTIONS if trees >= least)
        fields.draft("dataset.evaluation.fraction", fraction)
        some = f"about {round(fraction * trees):,} of {trees:,} conversations"
        fields.say("dataset.evaluation", some if all(found.is_all for found in sources) else "of the conversations, never across one")


# ---- how it is learnt


def _draft_length(fields: Fields, model: FoundModel, sources: Sequence[FoundSource]) -> None:
    positions = model.shape.positions if model.shape else None
    lengths = [length for found in sources if not found.divides for length in found.lengths]
    if (wanted := fields.get("training.maxSequenceLength")) is not None:
        _say_share(fields, lengths, wanted)
        return
    if not lengths:
        length = min(_DEFAULT_LENGTH, positions or _DEFAULT_LENGTH)
        why = "documents are divided where a row is full" if any(found.divides for found in sources) else "lengths are not known yet"
        fields.draft("training.maxSequenceLength", length, f"tokens of a packed row; {why}")
        return
    fields.draft("training.maxSequenceLength", fitting_length(lengths, positions))
    _say_share(fields, lengths, fields.get("training.maxSequenceLength"))


def _say_share(fields: Fields, lengths: Sequence[int], length: int) -> None:
    if not lengths or not isinstance(length, int):
        return
    held = sum(each <= length for each in lengths) / len(lengths)
    rest = "others are divided at turns, and what fits no row is left out"
    share = "all dialogues fit" if held == 1 else f"{held:.1%} of the dialogues fit, {rest}"
    fields.say("training.maxSequenceLength", f"tokens of a row: {share}; the longest has {max(lengths):,}")


def _draft_training(fields: Fields, gpus: int, model: FoundModel, sources: Sequence[FoundSource]) -> None:
    """`gpus`: those that a batch has to divide among; 0 where it may be any."""
    if not fields.has("training.maxSteps"):
        fields.draft("training.epochs", _EPOCHS if all(found.is_all for found in sources) else 1)
    _draft_learning_rate(fields, model)
    if fields.has("training.globalBatchSize"):
        return
    epochs, length = fields.get("training.epochs"), fields.get("training.maxSequenceLength")
    rows = num_rows(sources, length) if isinstance(length, int) else None
    if rows is None or not isinstance(epochs, int) or epochs < 1:
        fields.say("training.globalBatchSize", "the largest power of two up to 256 rows a step that leaves 100 steps")
        return
    batch = fitting_batch_size(rows, epochs)
    if gpus and batch % gpus:
        fields.draft("training.microBatchSize", 1)
        fields.draft("training.globalBatchSize", ceil(batch / gpus) * gpus, f"rows a step: a multiple of the {gpus} GPUs")
    else:
        fields.say("training.globalBatchSize", f"it comes to about {batch} rows a step, which is {ceil(rows / batch) * epochs:,} steps")


def _draft_learning_rate(fields: Fields, model: FoundModel) -> None:
    if fields.has("training.optimizer.learningRate") or model.shape is None:
        return
    if model.spec.initialization == "random":
        fields.draft("training.optimizer.learningRate", 1e-3)
        fields.say("training.optimizer", "high, for weights that are random")
    elif model.shape.parameters < _SMALL_MODEL:
        fields.draft("training.optimizer.learningRate", 1e-4)
        fields.say("training.optimizer", "usual below a billion parameters; 2.0e-5 above")


# ---- where it runs, and where it goes


def _draft_places(fields: Fields, wishes: Wishes) -> None:
    if wishes.cluster:
        fields.draft("checkpoints.storage", f"{_BUCKET}/{wishes.name}")
        fields.draft("checkpoints.credentialsSecret", {"name": "s3"})
        fields.say("checkpoints", "yours: the bucket, and a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if wishes.hub:
        fields.draft("publish.hub.repository", wishes.hub, "made when it isn't there, private")
    elif wishes.directory:
        fields.draft(FOLDER, wishes.directory)
    if wishes.cluster and fields.get("publish.hub.repository"):
        fields.draft("publish.hub.tokenSecret", {"name": "hub"})
        fields.say("publish", "yours: a Secret with the key token")


def _draft_workers(fields: Fields, wishes: Wishes, model: FoundModel, machine: ThisMachine) -> None:
    """Absent workers are this machine's; a batch that is told needs the workers that it was divided for."""
    if wishes.cluster:
        fields.draft("workers.nodes", 1)
        is_free = wishes.gpus is None and not fields.has("training.globalBatchSize")
        held = gpus_for(_job(fields, wishes), model.shape) if is_free else None
        fields.draft("workers.gpusPerNode", wishes.gpus or held or 1)
        why = f"{held} x 80 GB hold it (estimated); " if held else ""
        fields.say("workers", f"{why}`finetune plan --set workers.accelerator=NAME` says what fits")
        return
    if wishes.gpus or fields.has("training.globalBatchSize"):
        gpus = wishes.gpus or machine.gpus
        fields.spec["workers"] = {"gpusPerNode": gpus} if gpus else {"device": "cpu", "gpusPerNode": 0, "workersPerNode": 1}
        fields.say("workers", "as --gpus says" if wishes.gpus else "those that the batch is divided among")
    job = _job(fields, wishes)
    micro = fitting_micro_batch_size(job, model.shape, machine)
    if micro not in (None, job.spec.training.micro_batch_size) and not fields.has("training.globalBatchSize"):
        fields.draft("training.microBatchSize", micro, f"what fits {called(machine)}")


def _job(fields: Fields, wishes: Wishes) -> FineTuneJob:
    return parse_job({"metadata": {"name": wishes.name}, "spec": fields.spec})

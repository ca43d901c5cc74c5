"""What would go wrong only after training, looked at before it: packages, names of tasks, files, the judge's key and address.

In: a job. Out: nothing, or the error that the evaluation would have ended with; what may still change until then is a notice. No model is
loaded, nothing is fetched from the Hub but prompts and the training data, and a judge is asked for the list of its models alone, which
costs no token. The preparation pod of a cluster looks at what it sees of the evaluation's: volumes of cpuPods, and variables that are the
same.
"""

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from finetune_api.checks import is_path
from finetune_api.cluster_checks import preparation_sees
from finetune_api.errors import InvalidEndpoint, InvalidSpec, NotInstalled, Problem
from finetune_api.finetunejob import FineTuneJob
from finetune_assistant.endpoint.client import EndpointSettings
from finetune_assistant.evaluation.code_tasks import WHAT, code_tasks
from finetune_assistant.evaluation.contamination import notes_before_training
from finetune_assistant.evaluation.tasks import chosen_tasks, need_harness, refuse_unknown
from finetune_assistant.job_evaluation.asking import KEY_FIELD, judge_plan, prompt_files, questions, task_data
from finetune_assistant.job_evaluation.words import fields_are_named
from finetune_trainer.secrets import Secrets

_ANSWER_SECONDS: Final = 10.0
Notify = Callable[[str], None]


def check_evaluation(job: FineTuneJob, *, base: Path, secrets: Secrets, notice: Notify, has_begun: bool) -> None:
    """Raises NotInstalled, UnknownTask, InvalidData, InvalidSpec or InvalidEndpoint. Relative paths of the job begin at `base`.

    Training data that holds the evaluation's is told of, unless the run `has_begun`.
    """
    evaluation = job.spec.evaluation
    if not evaluation.has_stage:
        return
    if evaluation.judge is not None and find_spec("openai") is None:
        raise NotInstalled("spec.evaluation.judge needs a package that isn't here; pip install 'finetune-operator[assistant]'")
    looked_at = None if has_begun else secrets
    with fields_are_named():
        if evaluation.tasks:
            _check_tasks(job, base, looked_at, notice)
        _check_prompts(job, base, looked_at, notice)
    if evaluation.judge is None:
        return
    _need_base(job)
    _check_judge(job, secrets, notice)


def check_before_preparation(job: FineTuneJob, *, secrets: Secrets, notice: Notify) -> None:
    """What the preparation's pod sees of an evaluation: names of tasks, files, the judge's Secret and address.

    Raises UnknownTask, InvalidData, InvalidSpec or InvalidEndpoint. What only the evaluation's pod has is a notice: a volume of
    `evaluation.pod`, or lm-eval, which its image may have.
    """
    evaluation, root = job.spec.evaluation, Path("/")
    try:
        with fields_are_named():
            refuse_unknown(name for name in evaluation.tasks if name not in WHAT)
            if evaluation.tasks and _is_seen("taskData", evaluation.task_data, job, notice):
                _check_tasks(job, root, secrets, notice)
    except NotInstalled:
        notice("names in spec.evaluation.tasks are looked at after training only: this image has no lm-eval")
    judge, samples = evaluation.judge, evaluation.samples
    given = (("judge.prompts", judge.prompts if judge else None), ("samples.prompts", samples.prompts if samples else None))
    if all([_is_seen(field, place, job, notice) for field, place in given]):
        with fields_are_named():
            _check_prompts(job, root, secrets, notice)
    if judge is None:
        return
    _need_base(job)
    if judge.api_key_secret is not None:
        secrets.endpoint_key(judge.api_key_secret, KEY_FIELD, is_needed=True)
    if find_spec("openai") is not None and not _has_variables_of_its_own(job):
        _check_judge(job, secrets, notice)


def _is_seen(field: str, place: str | None, job: FineTuneJob, notice: Notify) -> bool:
    """Whether a place is on a volume that preparation has, too, or on none; one that isn't is told."""
    if place is None or not is_path(place) or preparation_sees(place, job.spec):
        return True
    notice(f"spec.evaluation.{field}={place} is looked at after training only: it is on a volume of spec.evaluation.pod alone")
    return False


def _has_variables_of_its_own(job: FineTuneJob) -> bool:
    """Whether the judge's address or key, or a proxy on the way to it, may be given to the evaluation's pod alone."""
    pod = job.spec.evaluation.pod
    return pod is not None and bool(pod.env or pod.env_from)


def _need_base(job: FineTuneJob) -> None:
    if job.spec.model.initialization == "random":
        told = "compares the trained model with its base, which has no weights (model.initialization: random)"
        raise InvalidSpec([Problem("spec.evaluation.judge", told, "remove it, or start from a pretrained model")])


def _check_tasks(job: FineTuneJob, base: Path, secrets: Secrets | None, notice: Notify) -> None:
    """`secrets`: of the training data, which is looked at then."""
    names, data = job.spec.evaluation.tasks, task_data(job, base)
    of_harness = [name for name in names if name not in WHAT]
    with tempfile.TemporaryDirectory(prefix="finetune-tasks-") as folder:
        if of_harness:
            need_harness()
            chosen = chosen_tasks(of_harness, data, Path(folder))
            _tell_of_contamination(job, chosen.evaluation_files, base, secrets, notice)
        code_tasks(names, data, samples=1, limit=1, pictures=None)


def _check_prompts(job: FineTuneJob, base: Path, secrets: Secrets | None, notice: Notify) -> None:
    questions(job, base)
    _tell_of_contamination(job, prompt_files(job, base), base, secrets, notice)


def _tell_of_contamination(job: FineTuneJob, files: list[Path], base: Path, secrets: Secrets | None, notice: Notify) -> None:
    for text in notes_before_training(job, files, base=base, secrets=secrets) if secrets is not None else ():
        notice(text)


def _check_judge(job: FineTuneJob, secrets: Secrets, notice: Notify) -> None:
    with fields_are_named():
        plan = judge_plan(job, secrets)
    _look_at_endpoint(plan.settings, notice)


def _look_at_endpoint(settings: EndpointSettings, notice: Notify) -> None:
    """Refuses a key that the endpoint doesn't know. One that doesn't answer may be started until it is needed, and a key that may not list
    models (403) may ask them.
    """
    import openai

    client = openai.OpenAI(base_url=settings.base_url, api_key=settings.api_key or "none", timeout=_ANSWER_SECONDS, max_retries=0)
    try:
        with client:
            models = {str(model.id) for model in client.models.list().data}
    except openai.AuthenticationError:
        raise InvalidEndpoint(
            f"spec.evaluation.judge: {settings.base_url} refuses the key of {settings.key_name} (401); set one that may use it"
        ) from None
    except openai.PermissionDeniedError:
        notice(
            f"{settings.base_url} doesn't let the key of {settings.key_name} list its models (403); if it may not ask them either, "
            "stop here and set one in spec.evaluation.judge that may"
        )
    except openai.APIConnectionError:
        notice(
            f"nobody answers at {settings.base_url} now, where spec.evaluation.judge is asked after training; "
            "if that is not on purpose, stop here and correct spec.evaluation.judge.baseUrl"
        )
    except (openai.OpenAIError, ValueError, TypeError, AttributeError):  # many servers have no such list, or another one
        return
    else:
        if models and settings.model not in models:
            notice(
                f"{settings.base_url} lists no model {settings.model}, which spec.evaluation.judge asks after training; "
                f"it lists {len(models)}, such as {min(models)}"
            )

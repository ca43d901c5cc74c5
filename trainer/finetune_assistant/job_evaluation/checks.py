"""What would go wrong only after training, looked at before it: packages, names of tasks, files, the judge's key and address.

In: a job. Out: nothing, or the error that the evaluation would have ended with; what may still change until then is a notice. No model is
loaded, nothing is fetched from the Hub but prompts, and a judge is asked for the list of its models alone, which costs no token. The
preparation pod of a cluster has neither the volumes nor the network of the evaluation's: it looks at the spec and the Secrets alone.
"""

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from finetune_api.errors import InvalidEndpoint, InvalidSpec, NotInstalled, Problem
from finetune_api.finetunejob import FineTuneJob
from finetune_assistant.endpoint.client import EndpointSettings
from finetune_assistant.evaluation.code_tasks import WHAT, code_tasks
from finetune_assistant.evaluation.tasks import chosen_tasks, need_harness, refuse_unknown
from finetune_assistant.job_evaluation.asking import KEY_FIELD, judge_plan, questions, task_data
from finetune_assistant.job_evaluation.words import fields_are_named
from finetune_trainer.secrets import Secrets

_ANSWER_SECONDS: Final = 10.0


def check_evaluation(job: FineTuneJob, *, base: Path, secrets: Secrets, notice: Callable[[str], None]) -> None:
    """Raises NotInstalled, UnknownTask, InvalidData, InvalidSpec or InvalidEndpoint. Relative paths of the job begin at `base`."""
    evaluation = job.spec.evaluation
    if not evaluation.has_stage:
        return
    if evaluation.judge is not None and find_spec("openai") is None:
        raise NotInstalled("spec.evaluation.judge needs a package that isn't here; pip install 'finetune-operator[assistant]'")
    with fields_are_named():
        if evaluation.tasks:
            _check_tasks(job, base)
        questions(job, base)
    if evaluation.judge is None:
        return
    _need_base(job)
    with fields_are_named():
        plan = judge_plan(job, secrets)
    _look_at_endpoint(plan.settings, notice)


def check_before_preparation(job: FineTuneJob, *, secrets: Secrets, notice: Callable[[str], None]) -> None:
    """What can be known of an evaluation without its files and its endpoint: names of tasks, and the judge's Secret.

    Raises UnknownTask or InvalidSpec. An image without lm-eval knows no names: that is a notice, for the evaluation may have its own.
    """
    evaluation = job.spec.evaluation
    try:
        with fields_are_named():
            refuse_unknown(name for name in evaluation.tasks if name not in WHAT)
    except NotInstalled:
        notice("names in spec.evaluation.tasks are looked at after training only: this image has no lm-eval")
    if (judge := evaluation.judge) is not None:
        _need_base(job)
        if (secret := judge.api_key_secret) is not None:
            secrets.endpoint_key(secret, KEY_FIELD, is_needed=True)


def _need_base(job: FineTuneJob) -> None:
    if job.spec.model.initialization == "random":
        told = "compares the trained model with its base, which has no weights (model.initialization: random)"
        raise InvalidSpec([Problem("spec.evaluation.judge", told, "remove it, or start from a pretrained model")])


def _check_tasks(job: FineTuneJob, base: Path) -> None:
    names, data = job.spec.evaluation.tasks, task_data(job, base)
    of_harness = [name for name in names if name not in WHAT]
    with tempfile.TemporaryDirectory(prefix="finetune-tasks-") as folder:
        if of_harness:
            need_harness()
            chosen_tasks(of_harness, data, Path(folder))
        code_tasks(names, data, samples=1, limit=1, pictures=None)


def _look_at_endpoint(settings: EndpointSettings, notice: Callable[[str], None]) -> None:
    """Refuses a key that the endpoint refuses. One that doesn't answer may be started until it is needed."""
    import openai

    client = openai.OpenAI(base_url=settings.base_url, api_key=settings.api_key or "none", timeout=_ANSWER_SECONDS, max_retries=0)
    try:
        with client:
            client.models.list()
    except openai.AuthenticationError:
        raise InvalidEndpoint(
            f"spec.evaluation.judge: {settings.base_url} refuses the key of {settings.key_name} (401); set one that may use it"
        ) from None
    except openai.APIConnectionError:
        notice(
            f"nobody answers at {settings.base_url} now, where spec.evaluation.judge is asked after training; "
            "if that is not on purpose, stop here and correct spec.evaluation.judge.baseUrl"
        )
    except (openai.OpenAIError, ValueError):  # many servers have no such list
        return

"""What a job asks models and judges, by its spec: prompts, sampling, the endpoint. Files are read here, models are not loaded.

In: the job, where its relative paths begin, its Secrets. Out: values of the rooms that ask.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from finetune_api.finetunejob import FineTuneJob
from finetune_api.finetunejob.places import is_hub_place
from finetune_assistant.answers.samples import Questions
from finetune_assistant.endpoint.budget import Budget
from finetune_assistant.endpoint.client import EndpointSettings
from finetune_assistant.evaluation.harness import HarnessSettings
from finetune_assistant.inference.sampling import Sampling
from finetune_assistant.judging.run import Plan
from finetune_assistant.prompts import code_prompts
from finetune_assistant.prompts.prompt_rows import SAMPLE_PROMPTS, PromptRow, read_prompts
from finetune_trainer.data.splits import SUFFIXES
from finetune_trainer.secrets import ENDPOINT_KEY, Secrets

OPENAI: Final = "https://api.openai.com/v1"
# Names of sets of questions, and of the files with their answers.
GREEDY: Final = "greedy"
SAMPLED: Final = "sampled"
JUDGED: Final = "judged"
KEY_FIELD: Final = "spec.evaluation.judge.apiKeySecret"


def base_name(job: FineTuneJob) -> str:
    """What the base model is called beside the job's: an id of the Hub, or the last part of a path or an address. Never the job's name.

    Cards show it, and nobody should read there how somebody's disk is laid out.
    """
    name = job.spec.model.name
    short = name if is_hub_place(name) else PurePosixPath(name).name or "base"
    return f"{short} (base)" if short == job.metadata.name else short


def questions(job: FineTuneJob, base: Path) -> list[Questions]:
    """What base and tuned model answer. Raises InvalidData for files of prompts."""
    evaluation, generation = job.spec.evaluation, job.spec.generation
    asked = []
    if (wanted := evaluation.samples) is not None:
        rows = _rows(wanted.prompts, SAMPLE_PROMPTS, base)[: wanted.count]
        greedy = Sampling(greedy=True, max_new_tokens=wanted.max_new_tokens)
        asked.append(Questions(name=GREEDY, rows=rows, sampling=greedy))
        asked.append(Questions(name=SAMPLED, rows=rows, sampling=_drawn(job, wanted.max_new_tokens)))
    if (judge := evaluation.judge) is not None:
        rows = _rows(judge.prompts, code_prompts.OURS, base)
        # Ours are sorted by what they ask for, and those of a user perhaps by what matters most.
        rows = rows[: judge.limit] if judge.prompts else spread(rows, judge.limit)
        asked.append(Questions(name=JUDGED, rows=rows, sampling=_drawn(job, generation.max_new_tokens)))
    return asked


def prompt_files(job: FineTuneJob, base: Path) -> list[Path]:
    """The user's own files of prompts; those of the Hub and ours are none."""
    evaluation = job.spec.evaluation
    places = [asked.prompts for asked in (evaluation.samples, evaluation.judge) if asked is not None and asked.prompts is not None]
    return list(dict.fromkeys(base / place for place in places if (base / place).is_file()))


def spread(rows: Sequence[PromptRow], count: int) -> list[PromptRow]:
    """`count` of the rows, from the first to the last at equal distances; all where there are no more.

    >>> spread(list("abcdefgh"), 3)
    ['a', 'c', 'f']
    """
    return list(rows) if count >= len(rows) else [rows[number * len(rows) // count] for number in range(count)]


def _drawn(job: FineTuneJob, max_new_tokens: int) -> Sampling:
    """As the published model will answer, for both models. Its repetition penalty isn't the base's: it ruins dialogue prompting."""
    generation = job.spec.generation
    return Sampling(temperature=generation.temperature, top_k=generation.top_k, top_p=generation.top_p, max_new_tokens=max_new_tokens)


def _rows(place: str | None, ours: Path, base: Path) -> list[PromptRow]:
    if place is None:
        return read_prompts(str(ours))
    path = base / place
    is_hub = is_hub_place(place) and place.count("/") == 1 and not place.endswith(SUFFIXES) and not path.exists()
    return read_prompts(place if is_hub else str(path))


def task_data(job: FineTuneJob, base: Path) -> Path | None:
    """The folder with the tasks' files."""
    place = job.spec.evaluation.task_data
    return None if place is None else base / place


def harness_settings(job: FineTuneJob) -> HarnessSettings:
    """How benchmarks are asked."""
    evaluation = job.spec.evaluation
    return HarnessSettings(num_fewshot=evaluation.num_fewshot, limit=evaluation.limit, batch_size=evaluation.batch_size)


def judge_plan(job: FineTuneJob, secrets: Secrets, environment: Mapping[str, str] = os.environ) -> Plan:
    """How the judge is asked. Raises InvalidSpec where the key is missing, InvalidEndpoint for an address that is none."""
    judge = job.spec.evaluation.judge
    assert judge is not None
    url = judge.base_url or environment.get("OPENAI_BASE_URL")
    secret = judge.api_key_secret
    # A server of one's own may do without a key.
    key = secrets.endpoint_key(secret, KEY_FIELD, is_needed=url is None)
    settings = EndpointSettings(
        base_url=url or OPENAI, model=judge.model, api_key=key, key_name=ENDPOINT_KEY if secret is None else KEY_FIELD
    )
    return Plan(settings=settings, budget=Budget(tokens=judge.max_tokens))

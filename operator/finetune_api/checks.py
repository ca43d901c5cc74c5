"""What a well-formed job asks for that can't be had: fields that contradict one another, over several sections.

One table, each row a field, a predicate over the spec, a message and a remedy. Rules about one object are in
`finetunejob`, those that need a number worked out in `plan`, those that only a cluster has in `cluster_checks`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel

from finetune_api.engines import engine_name
from finetune_api.errors import Problem
from finetune_api.fields import key, paths
from finetune_api.finetunejob import FineTuneJob, FineTuneJobSpec, RoleMapping
from finetune_api.finetunejob.effects import is_set, yaml_path
from finetune_api.finetunejob.hub_ids import hub_id_problem, like_hub_id
from finetune_api.finetunejob.places import is_hub_place, is_like_an_address, is_storage, is_storage_misspelt, scheme, storage_remedy
from finetune_api.finetunejob.places import is_path as is_path
from finetune_api.finetunejob.template import RESERVED_VARIABLES
from finetune_api.yaml_text import as_yaml

_HUB_ADDRESSES: Final = ("https://huggingface.co/", "https://hf.co/", "https://www.huggingface.co/", "hf://")
# What stands before the host of a URL, also where the URL is misspelt or the key holds a slash; a port is no key.
_USERINFO: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/*([^/@]*|[^/@]*:(?!\d*/)[^@]*)@")
# Of a longer name nobody wants a corrected copy in a message.
_LONGEST_GUESS: Final = 200
_DATA_SUFFIXES: Final = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".tsv", ".gz", ".zst")
# Keys of DeepSpeed's zero_optimization that its stage 2 doesn't read.
_OF_ZERO3: Final = (
    "sub_group_size",
    "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "offload_param",
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: where `refuses(spec)` is true, `field` gets `message` and `remedy`."""

    field: str
    refuses: Callable[[FineTuneJobSpec], bool]
    message: str
    remedy: str


def _schemes(spec: FineTuneJobSpec) -> set[str]:
    """The kinds of object storage that a job reads from or writes to with the settings of its checkpoints."""
    places = [spec.model.name, spec.checkpoints.storage or "", *(source.path for source in spec.dataset.sources)]
    return {scheme(place) for place in places if is_storage(place)}


CONTRADICTIONS: Final = (
    Rule(
        "spec.model.initialization",
        lambda s: s.model.initialization == "random" and is_hub_place(s.model.name),
        "random needs a folder with config.json and tokenizer, and model.name is of the Hub",
        "name a directory (./x, ../x or /x), or use pretrained",
    ),
    Rule(
        "spec.evaluation.judge",
        lambda s: s.model.initialization == "random" and s.evaluation.judge is not None,
        "compares the trained model with its base, which has no weights (model.initialization: random)",
        "remove it, or start from a pretrained model",
    ),
    Rule(
        "spec.training.method",
        lambda s: s.model.initialization == "random" and s.training.adapter is not None,
        "lora trains adapters beside the base's weights, and this base has none (model.initialization: random)",
        "use full, or start from a pretrained model",
    ),
    Rule(
        "spec.training.method",
        lambda s: s.training.method == "qlora" and engine_name(s.training, s.workers.world_size) == "zero3",
        "qlora keeps layers in 4 bits, a scale for each 64 weights of a layer, and ZeRO-3 cuts layers into flat parts, whatever is in them",
        "use sharding: zero2, with which each worker holds them whole, or lora",
    ),
    Rule(
        "spec.training.optimizer.name",
        lambda s: s.training.optimizer.name == "adamw8bit" and engine_name(s.training, s.workers.world_size) != "plain",
        "adamw8bit keeps moments in 8 bits, a scale for each 256 of a tensor, and DeepSpeed cuts tensors elsewhere",
        "use adamw, or one worker without deepspeed.offload_*",
    ),
    Rule(
        "spec.publish.checkpoint",
        lambda s: s.publish.checkpoint == "best" and s.dataset.evaluation is None,
        "best needs an evaluation loss, and nothing is held out",
        "set dataset.evaluation.fraction: 0.1, or use last",
    ),
    Rule(
        "spec.publish.hub.tag",
        lambda s: s.publish.hub is not None and (tag := s.publish.hub.tag or "") != "" and (".." in tag or tag.endswith(".lock")),
        "git takes no tag with `..` in it, or with `.lock` at its end",
        "use another, for example v1.0",
    ),
    Rule(
        "spec.publish.hub.tag",
        lambda s: s.publish.hub is not None and s.publish.hub.tag == s.publish.hub.revision,
        "is the name of the branch too, and a reader who asks for it would get either",
        "name the tag otherwise, for example v1.0",
    ),
    *(
        Rule(
            f"spec.checkpoints.{yaml_path(name)}",
            lambda s, name=name: getattr(s.checkpoints, name) is not None and not _schemes(s),  # type: ignore[misc]
            "is given, but nothing in this job is at s3://, gs:// or az://",
            "set checkpoints.storage: s3://bucket/prefix, or remove it",
        )
        for name in ("endpoint", "credentials_secret", "ca_bundle")
    ),
    Rule(
        "spec.checkpoints.region",
        lambda s: s.checkpoints.region is not None and "s3" not in _schemes(s),
        "is given, but nothing in this job is at s3://",
        "set checkpoints.storage: s3://bucket/prefix, or remove it",
    ),
    Rule(
        "spec.budget.gpuHours",
        lambda s: s.budget.gpu_hours is not None and device(s) == "cpu",
        "is given, and workers on CPUs hold no GPU",
        "use budget.activeDeadlineSeconds, or remove it",
    ),
    Rule(
        "spec.workers.minNodes",
        lambda s: s.workers.is_elastic and s.workers.queue_name is not None,
        "lets a job start smaller when its pods find no node, and with workers.queueName Kueue lets none of them start until all may",
        "remove it, or the queue",
    ),
    Rule(
        "spec.workers.gpusPerNode",
        lambda s: s.workers.device == "gpu" and s.workers.gpus_per_node == 0,
        "0 leaves device: gpu without GPUs",
        "set it to the GPUs of a node, or use device: cpu and workersPerNode: 2",
    ),
    Rule(
        "spec.workers.workersPerNode",
        lambda s: s.workers.world_size == 0 and s.workers.device != "gpu",
        "is missing, and gpusPerNode is 0, so that there is no worker",
        "set it to the number of CPU workers, for example 2",
    ),
    Rule(
        "spec.workers.workersPerNode",
        lambda s: device(s) == "gpu" and s.workers.workers_per_node not in (None, s.workers.gpus_per_node),
        "differs from gpusPerNode, and a GPU has exactly one worker",
        "remove it, or use device: cpu",
    ),
    Rule(
        "spec.training.precision",
        lambda s: s.training.precision == "fp16" and device(s) == "cpu",
        "fp16 is for GPUs without bf16, and the workers are on CPUs",
        "use auto or fp32",
    ),
    *(
        Rule(
            f"spec.training.deepspeed.{name}",
            lambda s, name=name: getattr(s.training.deepspeed, name).device == "cpu" and device(s) == "cpu",  # type: ignore[misc]
            "keeps in the host's memory what a GPU would hold, and the workers are on CPUs",
            "remove it",
        )
        for name in ("offload_optimizer", "offload_param")
    ),
    *(
        Rule(
            f"spec.training.deepspeed.{name}.pin_memory",
            lambda s, name=name: (offload := getattr(s.training.deepspeed, name)).pin_memory and offload.device == "none",  # type: ignore[misc]
            "true is of what is offloaded, and device: none offloads nothing",
            "remove it, or use device: cpu",
        )
        for name in ("offload_optimizer", "offload_param")
    ),
    *(
        Rule(
            f"spec.training.deepspeed.{name}",
            lambda s, name=name: s.training.sharding == "zero2" and is_set(s.training.deepspeed, name),  # type: ignore[misc]
            "is a setting of ZeRO-3, and sharding: zero2 leaves all weights on each worker",
            "remove it, or use sharding: zero3",
        )
        for name in _OF_ZERO3
    ),
)


def device(spec: FineTuneJobSpec) -> str:
    """Where workers compute: `auto` is gpu when nodes have GPUs."""
    if spec.workers.device == "auto":
        return "gpu" if spec.workers.gpus_per_node else "cpu"
    return spec.workers.device


def holds_userinfo(url: str) -> bool:
    """Whether a URL has a user name or key before its host. What is true of must never be printed.

    >>> [holds_userinfo(url) for url in ("s3://KEY:SECRET@bucket/p", "https://KEY:SEC/RET@host", "s3://bucket/a@b", "http://host:9000/a@b")]
    [True, True, False, False]
    """
    return _USERINFO.match(url) is not None


def spec_problems(spec: FineTuneJobSpec) -> list[Problem]:
    """Everything in the table, and names that lead nowhere."""
    problems = [Problem(rule.field, rule.message, rule.remedy) for rule in CONTRADICTIONS if rule.refuses(spec)]
    return [*problems, *_name_problems(spec)]


def in_spec_order(problems: list[Problem]) -> list[Problem]:
    """The problems in the order of the spec's fields; those of one field stay as they are."""
    order = {path: index for index, path in enumerate(paths(FineTuneJobSpec))}
    return sorted(problems, key=lambda found: order.get(re.sub(r"\[\d+\]", "[]", found.field), -1))


def _name_problems(spec: FineTuneJobSpec) -> Iterator[Problem]:
    """Names of models, sources, storage and endpoints that have none of the known forms."""
    if problem := _place_problem("spec.model.name", spec.model.name, "spec.checkpoints.credentialsSecret"):
        yield problem
    for index, source in enumerate(spec.dataset.sources):
        field = f"spec.dataset.sources[{index}]"
        if problem := _place_problem(f"{field}.path", source.path, f"{field}.credentialsSecret"):
            yield problem
        if twice := _named_twice(source.roles):
            yield Problem(f"{field}.roles", f"{', '.join(twice)}: stands for two roles", "list each name once")
    yield from _address_problems(spec)
    yield from _evaluation_problems(spec)
    yield from _variable_problems(spec)


def _evaluation_problems(spec: FineTuneJobSpec) -> Iterator[Problem]:
    """Keys in the judge's address, and prompts that can't be read."""
    judge, samples = spec.evaluation.judge, spec.evaluation.samples
    if judge is not None and judge.base_url is not None and holds_userinfo(judge.base_url):
        yield _userinfo_problem("spec.evaluation.judge.baseUrl", "spec.evaluation.judge.apiKeySecret")
    for field, prompts in (("judge", judge.prompts if judge else None), ("samples", samples.prompts if samples else None)):
        if prompts is None:
            continue
        if is_like_an_address(prompts):
            told = "is an address, and prompts are a file or a Hub data set"
            yield Problem(f"spec.evaluation.{field}.prompts", told, "write ./path, /path or org/name")
        elif problem := _place_problem(f"spec.evaluation.{field}.prompts", prompts, "spec.model.tokenSecret"):
            yield problem


def _named_twice(roles: RoleMapping) -> list[str]:
    """Names that stand for two roles; case and spaces around them don't count in rows either."""
    names = [name for listed in roles.model_dump().values() for name in {each.strip().lower() for each in listed}]
    return sorted({name for name in names if names.count(name) > 1})


def _variable_problems(spec: FineTuneJobSpec) -> Iterator[Problem]:
    """Names of a chat template's variables. The API server has no rule for keys of an object of any form."""
    for name in spec.template.variables or {}:
        if name in RESERVED_VARIABLES:
            told = f'"{name}" would stand before what a chat template is given by itself'
            yield Problem("spec.template.variables", told, "choose another name")
        elif not name.isidentifier():
            yield Problem("spec.template.variables", f'"{name}" is no name of a variable in Jinja', "use letters, digits and _")


def _address_problems(spec: FineTuneJobSpec) -> Iterator[Problem]:
    """Addresses of storage and endpoints: keys in them, and storage of an unknown kind."""
    storage = spec.checkpoints.storage
    yield from _publication_problems(spec)
    for name, address in (("storage", storage), ("endpoint", spec.checkpoints.endpoint)):
        if address is not None and holds_userinfo(address):
            yield _userinfo_problem(f"spec.checkpoints.{name}", "spec.checkpoints.credentialsSecret")
    if storage is not None and is_like_an_address(storage) and not holds_userinfo(storage) and not is_storage(storage):
        told = f'"{storage}" is no address of object storage'
        yield Problem("spec.checkpoints.storage", told, f"{storage_remedy(storage, 'prefix')}; or a directory")


def _publication_problems(spec: FineTuneJobSpec) -> Iterator[Problem]:
    """Where object storage is published to: keys in addresses, another kind, the checkpoints' own prefix."""
    publication, field = spec.publish.storage, "spec.publish.storage"
    if publication is None:
        return
    for name, address in (("path", publication.path), ("endpoint", publication.endpoint)):
        if address is not None and holds_userinfo(address):
            yield _userinfo_problem(f"{field}.{name}", f"{field}.credentialsSecret")
    path, checkpoints = publication.path.rstrip("/"), (spec.checkpoints.storage or "").rstrip("/")
    if not holds_userinfo(path) and not is_storage(path):
        remedy = f"{storage_remedy(path, 'prefix')}; a directory goes to publish.directory.path"
        yield Problem(f"{field}.path", f'"{path}" is no address of object storage', remedy)
    elif checkpoints and f"{path}/".startswith(f"{checkpoints}/"):
        remedy = "give the model a prefix of its own, beside it"
        yield Problem(f"{field}.path", f'"{path}" is inside checkpoints.storage, where only checkpoints may be', remedy)


def _userinfo_problem(field: str, secret: str) -> Problem:
    """The refusal of an address with keys in it, which doesn't show the address."""
    return Problem(field, "holds a user name or key before `@`", f"put keys into {secret} or the environment, never into an address")


def _place_problem(field: str, name: str, secret: str) -> Problem | None:
    if holds_userinfo(name):
        return _userinfo_problem(field, secret)
    if is_path(name) or is_storage(name):
        return None
    if is_storage_misspelt(name):
        return Problem(field, f'"{name}" is no address of object storage', storage_remedy(name, "key"))
    if name.startswith("~"):
        return Problem(field, f'"{name}" begins with ~, which only a shell reads', "write the path from / on")
    if name.startswith("file:/"):
        return Problem(field, f'"{name}" is neither a Hub id nor a path', f"write {as_yaml('/' + name.removeprefix('file:').lstrip('/'))}")
    if is_like_an_address(name):
        like = like_hub_id(name) if name.startswith(_HUB_ADDRESSES) else None
        return Problem(
            field,
            f'"{name}" can\'t be read from there',
            f"write {like}" if like else "write org/name, ./path, s3://bucket/key, gs://bucket/key or az://container/key",
        )
    if name.lower().endswith(_DATA_SUFFIXES):
        return Problem(field, f'"{name}" looks like a file, but is read as a Hub id', f"write {as_yaml(f'./{name}')}")
    if problem := hub_id_problem(name):
        like = None if "/" in name.strip("/").replace("/", "", 1) else like_hub_id(name)
        told = f'"{name}" is neither a Hub id nor a path: it {problem}'
        if len(name) > _LONGEST_GUESS:
            return Problem(field, told, "write org/name, ./path or s3://bucket/key")
        path = as_yaml(f"./{name}")
        remedy = f"write {as_yaml(like)}, or {path} for a path" if like else f"write {path} for a path, or org/name for the Hub"
        return Problem(field, told, remedy)
    return None


def cluster_only_fields(job: FineTuneJob) -> list[str]:
    """Fields set away from their defaults that act only on a cluster; `finetune run` says so instead of ignoring them silently."""
    spec = job.spec
    workers = [name for name in type(spec.workers).model_fields if name not in _WORKERS_EVERYWHERE]
    failures = [name for name in type(spec.failure_policy).model_fields if name != "halve_micro_batch_size"]
    found = [
        *_set_fields("spec.model", spec.model, ["cache"]),
        *_set_fields("spec.workers", spec.workers, workers),
        *_set_fields("spec.cpuPods", spec.cpu_pods, list(type(spec.cpu_pods).model_fields)),
        *_set_fields("spec.evaluation", spec.evaluation, ["pod"]),
        *_set_fields("spec.failurePolicy", spec.failure_policy, failures),
        *_set_fields("spec.budget", spec.budget, ["gpu_hours", "active_deadline_seconds"]),
        *_set_fields("spec", spec, ["suspend", "retry", "ttl_seconds_after_finished"]),
    ]
    return [*(["metadata.namespace"] if job.metadata.namespace else []), *found]


_WORKERS_EVERYWHERE: Final = ("nodes", "gpus_per_node", "workers_per_node", "device", "accelerator", "peak_teraflops")


def _set_fields(path: str, value: BaseModel, names: list[str]) -> list[str]:
    fields = type(value).model_fields
    return [
        f"{path}.{key(name, type(value))}" for name in names if getattr(value, name) != fields[name].get_default(call_default_factory=True)
    ]

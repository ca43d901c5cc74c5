"""CEL rules of the CRD: what pydantic's validators hold in Python, and what may change when.

Every rule costs; the API server adds up the worst case from the largest sizes in the schema, and refuses a CRD that is too dear.
"""

import json
from collections.abc import Iterator
from typing import Final

from pydantic import BaseModel

from finetune_api import finetunejob as job
from finetune_api.fields import key, kind
from finetune_api.finetunejob.effects import Effect, yaml_path
from finetune_api.finetunejob.hub_ids import LONGEST_PART
from finetune_api.finetunejob.places import like_an_address_cel


def _exclusive(first: str, second: str) -> tuple[str, str]:
    return f"!(has(self.{first}) && has(self.{second}))", f"{first} and {second} exclude each other; keep one"


# The rules that the validators of single objects hold in Python, for the API server; a test has a bad value for each.
_VALIDATORS: Final[dict[type[BaseModel], tuple[tuple[str, str], ...]]] = {
    job.EvaluationData: (_exclusive("split", "fraction"),),
    job.ControlTokens: (
        (
            "self.system != self.user && self.system != self.assistant && self.system != self.end"
            " && self.user != self.assistant && self.user != self.end && self.assistant != self.end",
            "two control tokens are the same; give four different ones",
        ),
    ),
    # Defaults are checked before their own fields' defaults are there, so a rule asks even for what always has a value.
    job.TemplateSpec: (
        ("has(self.tokens) == (has(self.name) && self.name == 'custom')", "tokens and name: custom go together; set both or neither"),
        ("has(self.jinja) == (has(self.name) && self.name == 'jinja')", "jinja and name: jinja go together; set both or neither"),
    ),
    job.Optimizer: (_exclusive("warmupRatio", "warmupSteps"),),
    job.Training: (_exclusive("epochs", "maxSteps"),),
    job.Toleration: (
        (
            "!(has(self.operator) && self.operator == 'Exists') || !has(self.value) || self.value == ''",
            "operator: Exists takes no value; remove value, or use operator: Equal",
        ),
        (
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            "operator: Equal needs a key; give key, or use operator: Exists for every taint",
        ),
        (
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerationSeconds needs effect: NoExecute; set it, or remove tolerationSeconds",
        ),
    ),
    job.Volume: (
        (
            "[has(self.persistentVolumeClaim), has(self.ephemeral), has(self.emptyDir), has(self.configMap), has(self.secret)]"
            ".filter(given, given).size() == 1",
            "a volume needs exactly one of persistentVolumeClaim, ephemeral, emptyDir, configMap, secret",
        ),
    ),
    job.CheckpointInterval: (("has(self.seconds) != has(self.steps)", "give seconds or steps, and not both"),),
    job.Publish: (_exclusive("hub", "directory"), _exclusive("hub", "storage"), _exclusive("directory", "storage")),
    job.HubPublication: (
        (
            "!self.repository.contains('--') && !self.repository.contains('..') && !self.repository.endsWith('.git')"
            f" && self.repository.matches('^.{{1,{LONGEST_PART}}}/.{{1,{LONGEST_PART}}}$')",
            f"the Hub takes no repository whose name holds -- or .., ends with .git, or has a part of more than {LONGEST_PART} characters",
        ),
    ),
    job.DirectoryPublication: (
        (
            f"!{like_an_address_cel('path')}",
            "path is an address, and a directory is a folder of this machine or of a pod; write a path, or use publish.storage",
        ),
    ),
    job.Generation: (
        (
            "!has(self.minNewTokens) || !has(self.maxNewTokens) || self.minNewTokens <= self.maxNewTokens",
            "minNewTokens is above maxNewTokens; lower it, or raise maxNewTokens",
        ),
    ),
}


def _is_set(model: type[BaseModel], field: str) -> str:
    """CEL: the field, or one below objects on the way to it, is there and not its default."""
    conditions, path = [], "self"
    for name in field.split("."):
        found = model.model_fields[name]
        path = f"{path}.{key(name, model)}"
        conditions.append(f"has({path})")
        model = kind(found.annotation).model or model
    default = found.get_default(call_default_factory=True)
    if default == []:
        conditions.append(f"{path}.size() > 0")
    elif default is not None:
        conditions.append(f"{path} != {json.dumps(default)}")
    return " && ".join(conditions)


def _effect_rule(model: type[BaseModel], effect: Effect) -> tuple[str, str]:
    return f"!({_is_set(model, effect.field)}) || ({effect.cel})", f"{yaml_path(effect.field)} {effect.message}; {effect.remedy}"


def _sections(model: type[job.Spec]) -> Iterator[type[job.Spec]]:
    """Every kind of object in a spec."""
    for direct in model.__subclasses__():
        yield direct
        yield from _sections(direct)


# All rules of single objects: those of their validators, and a field's that acts under a condition only.
RULES: Final[dict[type[BaseModel], tuple[tuple[str, str], ...]]] = {
    section: rules
    for section in _sections(job.Spec)
    if (rules := (*_VALIDATORS.get(section, ()), *(_effect_rule(section, effect) for effect in section.EFFECTS)))
}

_STARTED = "has(oldSelf.status) && has(oldSelf.status.startTime)"
_CREDENTIALS: Final = ("token_secret", "credentials_secret")


def _same(path: str, *, optional: bool = False) -> str:
    """CEL: the field is what it was."""
    new, old = f"self.{path}", f"oldSelf.{path}"
    return f"(has({new}) == has({old}) && (!has({new}) || {new} == {old}))" if optional else f"{new} == {old}"


def _same_object(path: str, model: type[BaseModel], *besides: str) -> str:
    """CEL: every field of the object is what it was, save those named."""
    fields = {name: field for name, field in model.model_fields.items() if name not in besides}
    return " && ".join(
        _same(f"{path}.{key(name, model)}", optional=field.default is None and not field.is_required()) for name, field in fields.items()
    )


def _same_sources() -> str:
    """CEL: the sources are what they were, credentials apart: compared field by field, since a list can't be compared in part."""
    same = []
    for name, field in job.DataSource.model_fields.items():
        if name in _CREDENTIALS:
            continue
        yaml_key = key(name, job.DataSource)
        absent = "0" if name == "limit" else "''"
        value = f"s.{yaml_key}" if field.default is not None else f"has(s.{yaml_key}) ? s.{yaml_key} : {absent}"
        same.append(f"self.spec.dataset.sources.map(s, {value}) == oldSelf.spec.dataset.sources.map(s, {value})")
    return " && ".join(same)


def _fixed(what: str, rule: str, remedy: str = "create another job for it") -> tuple[str, str]:
    return f"!({_STARTED}) || ({rule})", f"{what} can't change after the first attempt; {remedy}"


# Before the first attempt everything may change. Afterwards model, data, template and training never, workers while
# suspended, and the rest (credentials, retention, publication, budgets, suspend, retry, TTL) at any time.
ROOT_RULES: Final = (
    (
        "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "a job's name has at most 40 lower-case letters, digits and -, and begins with a letter",
    ),
    _fixed("spec.model", _same_object("spec.model", job.BaseModelSpec, "token_secret", "cache")),
    _fixed("spec.dataset.sources", _same_sources()),
    _fixed("spec.dataset", _same_object("spec.dataset", job.Dataset, "sources")),
    _fixed("spec.template", _same("spec.template")),
    _fixed("spec.training", _same("spec.training")),
    _fixed(
        "spec.checkpoints.storage",
        " && ".join(_same(f"spec.checkpoints.{name}", optional=True) for name in ("storage", "endpoint", "region")),
    ),
    _fixed("spec.workers", f"oldSelf.spec.suspend || {_same('spec.workers')}", "set suspend: true first, then change workers"),
)

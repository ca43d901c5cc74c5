"""CEL rules of the CRD: what pydantic's validators hold in Python, and what may change when.

Every rule costs; the API server adds up the worst case from the largest sizes in the schema, and refuses a CRD that is too dear.
"""

import json
from collections.abc import Iterator
from typing import Final

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from finetune_api import finetunejob as job
from finetune_api.field_use import FIELDS, Change, use_of
from finetune_api.fields import key, kind
from finetune_api.finetunejob.effects import Effect, yaml_path
from finetune_api.finetunejob.hub_ids import LONGEST_PART
from finetune_api.finetunejob.places import like_an_address_cel
from finetune_api.finetunejob.pod_env import REFERENCE, SECRET_NAME, UP_TO_A_PLACE
from finetune_api.finetunejob.pod_volumes import UPWARDS, VOLUME_SOURCES
from finetune_api.former_words import FORMER_NAMES, LATER_FIELDS


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
    job.Lora: (
        (
            f"!has(self.target_modules) || !('{job.ALL_LINEAR}' in self.target_modules) || self.target_modules.size() == 1",
            f"target_modules: {job.ALL_LINEAR} already names every linear layer; write [{job.ALL_LINEAR}]",
        ),
    ),
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
            f"[{', '.join(f'has(self.{to_camel(source)})' for source in VOLUME_SOURCES)}].filter(given, given).size() == 1",
            f"a volume needs exactly one of {', '.join(map(to_camel, VOLUME_SOURCES))}",
        ),
        (f"!has(self.subPath) || !self.subPath.matches('{UPWARDS}')", "subPath leads out of the volume; give a path inside it"),
    ),
    job.EnvVar: (
        (
            "!has(self.valueFrom) || !has(self.value) || self.value == ''",
            "value and valueFrom exclude each other; keep one",
        ),
        (
            f"!has(self.value) || self.value == '' || self.value.matches('{REFERENCE}') || !self.name.upperAscii()"
            f".replace(self.name.upperAscii().find('{UP_TO_A_PLACE}'), '').matches('{SECRET_NAME}')",
            "the name says that the value is a secret, which everybody who may see the job could read;"
            " put it into a Secret, and name that in valueFrom.secretKeyRef or envFrom",
        ),
    ),
    job.ValueFrom: (
        (
            "[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.fieldRef), has(self.resourceFieldRef)]"
            ".filter(given, given).size() == 1",
            "valueFrom needs exactly one of secretKeyRef, configMapKeyRef, fieldRef, resourceFieldRef",
        ),
    ),
    job.EnvFrom: (("has(self.secretRef) != has(self.configMapRef)", "envFrom takes exactly one of secretRef and configMapRef; give one"),),
    job.LabelRequirement: (
        (
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
            "In and NotIn need values, and the other operators take none; change values or operator",
        ),
    ),
    job.NodeRequirement: (
        (
            "(self.operator in ['In', 'NotIn', 'Gt', 'Lt']) == (has(self.values) && self.values.size() > 0)"
            " && (!(self.operator in ['Gt', 'Lt']) || !has(self.values) || self.values.size() == 1)",
            "In and NotIn need values, Gt and Lt a single one, and the other operators none; change values or operator",
        ),
    ),
    job.TopologySpreadConstraint: (
        (
            "!has(self.minDomains) || self.whenUnsatisfiable == 'DoNotSchedule'",
            "minDomains needs whenUnsatisfiable: DoNotSchedule; set it, or remove minDomains",
        ),
    ),
    job.Workers: (
        (
            "!has(self.minNodes) || self.minNodes <= (has(self.nodes) ? self.nodes : 1)",
            "minNodes is more than nodes; lower it, or raise nodes",
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


def _unless_former(model: type[BaseModel], rule: str) -> str:
    """The rule, of sources that have today's words. Of what is stored and unchanged the API server takes one that doesn't hold, and refuses
    one that can't be evaluated, also with each write of the status.
    """
    absent = [f"!has(self.{name})" for name in FORMER_NAMES if model is job.DataSource and f"self.{name}" in rule]
    return " || ".join([*absent, f"({rule})"]) if absent else rule


# All rules of single objects: those of their validators, and a field's that acts under a condition only.
RULES: Final[dict[type[BaseModel], tuple[tuple[str, str], ...]]] = {
    section: tuple((_unless_former(section, rule), message) for rule, message in rules)
    for section in _sections(job.Spec)
    if (rules := (*_VALIDATORS.get(section, ()), *(_effect_rule(section, effect) for effect in section.EFFECTS)))
}

_STARTED = "has(oldSelf.status) && has(oldSelf.status.startTime)"
# What has stopped may get other workers. That it was asked to is not enough: the attempt that runs has its workers still.
_STOPPED = (
    "(has(oldSelf.status.conditions) && oldSelf.status.conditions.exists(c, c.status == 'True'"
    " && (c.type == 'Failed' || (c.type == 'Suspended' && oldSelf.spec.suspend))))"
)
_REMEDIES: Final = {
    Change.NEVER: "create another job for it",
    Change.WHILE_STOPPED: "set suspend: true first, wait for the condition Suspended, and change it then",
}


def _same(path: str, absent: str | None = None, *, optional: bool = False) -> str:
    """CEL: the field is what it was. `absent`: what it is where it isn't there, `optional`: nothing is."""
    new, old = f"self.{path}", f"oldSelf.{path}"
    if absent is not None:
        return f"(has({new}) ? {new} : {absent}) == (has({old}) ? {old} : {absent})"
    return f"(has({new}) == has({old}) && (!has({new}) || {new} == {old}))" if optional else f"{new} == {old}"


def _is_optional(model: type[BaseModel], name: str) -> bool:
    field = model.model_fields[name]
    return field.default is None and not field.is_required()


def _same_items(path: str, model: type[BaseModel], change: Change) -> str:
    """CEL: the items of a list are what they were, but for fields of theirs that may change: a list can't be compared in part."""
    same = []
    for name, field in model.model_fields.items():
        yaml_key = key(name, model)
        if use_of(f"{path}[].{yaml_key}").change is not change:
            continue
        found, value = f"spec.{path}", f"s.{yaml_key}"
        if _is_optional(model, name):
            value = f"has({value}) ? {value} : {'0' if kind(field.annotation).annotation is int else repr('')}"
        elif model is job.DataSource and (former := FORMER_NAMES.get(yaml_key)):
            value = f"has({value}) ? {value} : has(s.{former}) ? s.{former} : ''"
        elif f"{path}[].{yaml_key}" in LATER_FIELDS:
            default = field.get_default(call_default_factory=True)
            if isinstance(default, str):
                value = f"has({value}) ? {value} : '{default}'"
            else:  # an object has no other value to be compared with
                same.append(f"self.{found}.map(s, has({value})) == oldSelf.{found}.map(s, has({value}))")
                found += f".filter(s, has({value}))"
        same.append(f"self.{found}.map(s, {value}) == oldSelf.{found}.map(s, {value})")
    return " && ".join(same)


def _same_field(path: str, model: type[BaseModel], name: str) -> str:
    """CEL: a field of a section is what it was."""
    absent = repr(model.model_fields[name].default) if path in LATER_FIELDS else None
    return _same(f"spec.{path}", absent, optional=_is_optional(model, name))


def _fixed(what: str, rule: str, change: Change) -> tuple[str, str]:
    unless = f"{_STOPPED} || " if change is Change.WHILE_STOPPED else ""
    return f"!({_STARTED}) || ({unless}{rule})", f"{what} can't change after the first attempt; {_REMEDIES[change]}"


def _changes(section: str) -> Iterator[tuple[str, str]]:
    """The rules of a section of the spec: of all of it, or of the fields in it that don't change as others do."""
    model = kind(job.FineTuneJobSpec.model_fields[section].annotation).model
    path = key(section, job.FineTuneJobSpec)
    changes = {use.change for use in FIELDS if use.covers(path) or use.path.startswith((f"{path}.", f"{path}["))}
    if model is None or len(changes) == 1:
        change = use_of(path).change
        if change is not Change.ALWAYS:
            yield _fixed(f"spec.{path}", _same(f"spec.{path}"), change)
        return
    fixed: dict[Change, list[str]] = {}
    for name in model.model_fields:
        field = f"{path}.{key(name, model)}"
        item = kind(kind(model.model_fields[name].annotation).item).model if kind(model.model_fields[name].annotation).is_list else None
        if (change := use_of(field).change) is Change.ALWAYS:
            continue
        if item is not None and any(use.path.startswith(f"{field}[") for use in FIELDS):
            yield _fixed(f"spec.{field}", _same_items(field, item, change), change)
        else:
            fixed.setdefault(change, []).append(_same_field(field, model, name))
    whole = use_of(path).change is not Change.ALWAYS
    for change, rules in fixed.items():
        first = next(use.path for use in FIELDS if use.change is change and use.path.startswith(path))
        yield _fixed(f"spec.{path if whole else first}", " && ".join(rules), change)


# Before the first attempt everything may change; afterwards what the table says.
ROOT_RULES: Final = (
    (
        "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "a job's name has at most 40 lower-case letters, digits and -, and begins with a letter",
    ),
    *(rule for section in job.FineTuneJobSpec.model_fields for rule in _changes(section)),
)

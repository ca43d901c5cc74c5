"""`env` and `envFrom` of a job's pods: values, and where else values come from. No value of a Secret is ever written in a job."""

import re
from typing import Annotated, Final

from pydantic import Field, model_validator
from pydantic.alias_generators import to_camel

from finetune_api.finetunejob.types import DataKey, ObjectName, Prose, Quantity, Spec, at_most_one

# A word of a variable's name, between underscores, that says that the value is a secret; and all of a name up to a word that says that
# the value is the place of one. In the words of Python's and Go's regular expressions alike; both judges look at the name in capitals.
SECRET_NAME: Final = "(^|_)(TOKEN|SECRET|PASSWORD|KEY)(_|$)"
UP_TO_A_PLACE: Final = "^(.*_)?(PATH|FILE|FILENAME|DIR|DIRECTORY|FOLDER)(_|$)"
# `$(OTHER)`: the value of another variable, which may come from a Secret.
REFERENCE: Final = "^[$][(][A-Za-z_][A-Za-z0-9_]*[)]$"

VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]


class KeyRef(Spec):
    """A key of a Secret or ConfigMap in the job's namespace."""

    name: ObjectName = Field(description="Name of the object.")
    key: DataKey = Field(description="Key inside it.")
    optional: bool = Field(default=False, description="Start without the variable where object or key is missing.")


class FieldRef(Spec):
    """A field of the pod itself."""

    field_path: str = Field(
        pattern=r"^(metadata[.](name|namespace|uid)|metadata[.](labels|annotations)\['[^']+'\]"
        r"|spec[.](nodeName|serviceAccountName)|status[.](hostIP|hostIPs|podIP|podIPs))$",
        max_length=512,
        description="For example `status.podIP`, `spec.nodeName` or `metadata.labels['team']`.",
    )


class ResourceFieldRef(Spec):
    """A limit or request of the container itself."""

    resource: str = Field(
        pattern=r"^(limits|requests)[.](cpu|memory|ephemeral-storage)$", max_length=64, description="For example `limits.cpu`."
    )
    divisor: Quantity | None = Field(default=None, description="Unit of the value, for example `1Mi`; absent is 1.")


class ValueFrom(Spec):
    """Where a variable's value comes from: one of four."""

    secret_key_ref: KeyRef | None = Field(default=None, description="A key of a Secret.")
    config_map_key_ref: KeyRef | None = Field(default=None, description="A key of a ConfigMap.")
    field_ref: FieldRef | None = Field(default=None, description="A field of the pod.")
    resource_field_ref: ResourceFieldRef | None = Field(default=None, description="A limit or request of the container.")

    @model_validator(mode="after")
    def _one_source(self) -> "ValueFrom":
        kinds = ("secret_key_ref", "config_map_key_ref", "field_ref", "resource_field_ref")
        at_most_one(self, *kinds)
        if all(getattr(self, kind) is None for kind in kinds):
            raise ValueError(f"valueFrom needs one of {', '.join(map(to_camel, kinds))}; give one")
        return self


class EnvVar(Spec):
    """An environment variable of a container. Ours win over it."""

    name: VariableName = Field(description="Name of the variable.")
    value: Prose = Field(default="", description="Value, which anybody who may see the job can read. For secret ones use valueFrom.")
    value_from: ValueFrom | None = Field(default=None, description="Where the value comes from, instead of `value`.")

    @model_validator(mode="after")
    def _value_or_source(self) -> "EnvVar":
        if self.value and self.value_from is not None:
            raise ValueError("value and valueFrom exclude each other; keep one")
        return self


def is_exposed(variable: EnvVar) -> bool:
    """Whether a value stands in the job that by its variable's name is a secret.

    >>> [is_exposed(EnvVar(name=name, value="x")) for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "TOKENIZERS_PARALLELISM", "MAX_TOKENS")]
    [True, True, False, False]
    >>> [is_exposed(EnvVar(name="HF_TOKEN_PATH", value="/x")), is_exposed(EnvVar(name="HF_TOKEN", value="$(HUB)"))]
    [False, False]
    >>> is_exposed(EnvVar(name="KEY_FILE_PASSWORD", value="x"))
    True
    """
    rest = re.sub(UP_TO_A_PLACE, "", variable.name.upper())
    return re.search(SECRET_NAME, rest) is not None and variable.value != "" and re.fullmatch(REFERENCE, variable.value) is None


class ObjectRef(Spec):
    """A Secret or ConfigMap whose keys become variables."""

    name: ObjectName = Field(description="Name of the object, in the job's namespace.")
    optional: bool = Field(default=False, description="Start without it where it is missing.")


class EnvFrom(Spec):
    """A Secret or ConfigMap each of whose keys becomes a variable; `env` and ours win over them."""

    prefix: str = Field(default="", pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$", max_length=256, description="Put before each key.")
    secret_ref: ObjectRef | None = Field(default=None, description="A Secret.")
    config_map_ref: ObjectRef | None = Field(default=None, description="A ConfigMap.")

    @model_validator(mode="after")
    def _one_object(self) -> "EnvFrom":
        if (self.secret_ref is None) == (self.config_map_ref is None):
            raise ValueError("envFrom takes exactly one of secretRef and configMapRef; give one")
        return self

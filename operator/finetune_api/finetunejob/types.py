"""What the sections share: scalars with their limits, frozen closed objects, names of Secrets."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from finetune_api.finetunejob.effects import Effect, refuse_idle

# Kubernetes keeps whole numbers in 64 bits.
LARGEST_INTEGER = 2**63 - 1


def whole(value: Any) -> Any:
    """JSON knows one kind of number: kubectl sends 3.0 and 1e3 of a YAML file as 3 and 1000."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Natural = Annotated[int, Field(ge=0, le=LARGEST_INTEGER), BeforeValidator(whole)]
Positive = Annotated[int, Field(ge=1, le=LARGEST_INTEGER), BeforeValidator(whole)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
# Every text and list has a largest size: the API server limits what comparing them may cost, and etcd what an object may weigh.
Word = Annotated[str, Field(min_length=1, max_length=256)]
Place = Annotated[str, Field(min_length=1, max_length=1024)]
Prose = Annotated[str, Field(max_length=16384)]
# Of any form: what is in it is judged elsewhere.
FreeObject = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
# Names of Kubernetes objects (DNS subdomain, DNS label), keys inside a Secret or ConfigMap, values of labels.
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", max_length=253)]
DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
DataKey = Annotated[str, Field(pattern=r"^[-_a-zA-Z0-9][-._a-zA-Z0-9]*$", max_length=253)]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", max_length=63)]
Image = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$", max_length=1024)]
# Kubernetes' resource.Quantity, without the forms that nobody writes.
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$", max_length=32)]
# A RayJob's name is a DNS label of at most 47 characters that begins with a letter, and ours carries the job's name (KubeRay v1.6).
JobName = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)]


class Model(BaseModel):
    """A frozen, closed object whose keys are camelCase in YAML and JSON."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        alias_generator=to_camel,
        validate_by_name=True,
        use_attribute_docstrings=True,
    )


class Spec(Model):
    """An object of the spec. `EFFECTS`: those of its fields that act under a condition only."""

    EFFECTS: ClassVar[tuple[Effect, ...]] = ()

    @model_validator(mode="after")
    def _fields_act(self) -> Self:
        refuse_idle(self, type(self).EFFECTS)
        return self


def at_most_one(value: BaseModel, *names: str) -> None:
    """Refuse two fields that exclude each other."""
    given = [to_camel(name) for name in names if getattr(value, name) is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other; keep one")


class SecretKey(Spec):
    """A Secret by name, in the job's namespace. The operator never reads it; pods get it as files.

    `finetune run` looks in the folder `$FINETUNE_SECRETS/<name>/`, then at the usual environment variables.
    """

    name: ObjectName = Field(description="Name of the Secret.")
    key: DataKey = Field(default="token", description="Key inside the Secret that holds the value.")


class SecretName(Spec):
    """A Secret by name whose keys are fixed: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, optionally `AWS_SESSION_TOKEN`."""

    name: ObjectName = Field(description="Name of the Secret.")

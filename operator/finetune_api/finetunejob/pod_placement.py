"""Where a job's pods may run: affinity, spreading and tolerations, typed as Kubernetes has them, so that `kubectl apply` refuses a typo."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from finetune_api.finetunejob.types import DnsLabel, LabelValue, Natural, Positive, Spec, Word, whole

_NEED_VALUES = ("In", "NotIn")
LabelKey = Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", max_length=317)]
Keys = Annotated[list[LabelKey], Field(max_length=16)]
Labels = Annotated[dict[str, LabelValue], Field(max_length=32)]


class Toleration(Spec):
    """A Kubernetes toleration."""

    key: Word | None = Field(default=None, description="Taint key; absent with `operator: Exists` tolerates all.")
    operator: Literal["Exists", "Equal"] = Field(default="Equal", description="How the value is compared.")
    value: LabelValue | None = Field(default=None, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Taint effect; absent matches all."
    )
    toleration_seconds: Natural | None = Field(default=None, description="How long a NoExecute taint is tolerated.")

    @model_validator(mode="after")
    def _one_meaning(self) -> "Toleration":
        if self.operator == "Exists" and self.value:
            raise ValueError("operator: Exists takes no value; remove value, or use operator: Equal")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("operator: Equal needs a key; give key, or use operator: Exists for every taint")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds needs effect: NoExecute; set it, or remove tolerationSeconds")
        return self


class LabelRequirement(Spec):
    """What a label has to be."""

    key: LabelKey = Field(description="Key of the label.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="How it is compared.")
    values: Annotated[list[LabelValue], Field(max_length=64)] = Field(default=[], description="For In and NotIn.")

    @model_validator(mode="after")
    def _values_where_asked(self) -> "LabelRequirement":
        if (self.operator in _NEED_VALUES) != bool(self.values):
            raise ValueError("In and NotIn need values, and the other operators take none; change values or operator")
        return self


class LabelSelector(Spec):
    """Which objects are meant; `{}` is all of them."""

    match_labels: Labels = Field(default={}, description="Labels that they have.")
    match_expressions: Annotated[list[LabelRequirement], Field(max_length=16)] = Field(default=[], description="More about labels.")


class NodeRequirement(Spec):
    """What a node's label or field has to be."""

    key: LabelKey = Field(description="Key of the label; in matchFields `metadata.name`.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = Field(description="How it is compared.")
    values: Annotated[list[LabelValue], Field(max_length=64)] = Field(default=[], description="For Gt and Lt a single whole number.")

    @model_validator(mode="after")
    def _values_where_asked(self) -> "NodeRequirement":
        wanted = self.operator in (*_NEED_VALUES, "Gt", "Lt")
        if wanted != bool(self.values) or (self.operator in ("Gt", "Lt") and len(self.values) != 1):
            raise ValueError("In and NotIn need values, Gt and Lt a single one, and the other operators none; change values or operator")
        return self


NodeRequirements = Annotated[list[NodeRequirement], Field(max_length=16)]


class NodeSelectorTerm(Spec):
    """A node that is all of this."""

    match_expressions: NodeRequirements = Field(default=[], description="What its labels have to be.")
    match_fields: NodeRequirements = Field(default=[], description="What its fields have to be; there is `metadata.name`.")


class NodeSelector(Spec):
    """A node that fits one of the terms."""

    node_selector_terms: Annotated[list[NodeSelectorTerm], Field(min_length=1, max_length=16)] = Field(description="The terms.")


Weight = Annotated[int, Field(ge=1, le=100), BeforeValidator(whole)]


class PreferredNode(Spec):
    """A wish for nodes."""

    weight: Weight = Field(description="From 1 to 100: how much it counts beside other wishes.")
    preference: NodeSelectorTerm = Field(description="The nodes.")


class NodeAffinity(Spec):
    """Which nodes."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = Field(default=None, description="No other nodes.")
    preferred_during_scheduling_ignored_during_execution: Annotated[list[PreferredNode], Field(max_length=16)] = Field(
        default=[], description="Rather these."
    )


class PodAffinityTerm(Spec):
    """Nodes, or groups of nodes, on which certain pods run."""

    topology_key: LabelKey = Field(description="Nodes with the same value of this label are one group; kubernetes.io/hostname: each is.")
    label_selector: LabelSelector | None = Field(default=None, description="Which pods; absent is none.")
    namespaces: Annotated[list[DnsLabel], Field(max_length=16)] = Field(default=[], description="Of these namespaces; absent is the job's.")
    namespace_selector: LabelSelector | None = Field(default=None, description="And of namespaces with these labels.")
    match_label_keys: Keys = Field(default=[], description="And with the same value of these labels as the pod.")
    mismatch_label_keys: Keys = Field(default=[], description="And with other values of these labels than the pod.")


class WeightedPodAffinityTerm(Spec):
    """A wish for nodes on which certain pods run."""

    weight: Weight = Field(description="From 1 to 100: how much it counts beside other wishes.")
    pod_affinity_term: PodAffinityTerm = Field(description="The nodes.")


class PodAffinity(Spec):
    """Near to which pods, or far from which."""

    required_during_scheduling_ignored_during_execution: Annotated[list[PodAffinityTerm], Field(max_length=16)] = Field(
        default=[], description="Nowhere else."
    )
    preferred_during_scheduling_ignored_during_execution: Annotated[list[WeightedPodAffinityTerm], Field(max_length=16)] = Field(
        default=[], description="Rather so."
    )


class Affinity(Spec):
    """A Kubernetes affinity."""

    node_affinity: NodeAffinity | None = Field(default=None, description="Which nodes.")
    pod_affinity: PodAffinity | None = Field(default=None, description="Near to which pods.")
    pod_anti_affinity: PodAffinity | None = Field(default=None, description="Far from which pods.")


class TopologySpreadConstraint(Spec):
    """How evenly pods are spread over groups of nodes."""

    max_skew: Positive = Field(description="Largest difference between the numbers of pods in two groups.")
    topology_key: LabelKey = Field(description="Nodes with the same value of this label are one group.")
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = Field(description="What becomes of a pod that would break it.")
    label_selector: LabelSelector | None = Field(default=None, description="Which pods are counted; absent is none.")
    min_domains: Positive | None = Field(default=None, description="Least number of groups; needs DoNotSchedule.")
    node_affinity_policy: Literal["Honor", "Ignore"] | None = Field(
        default=None, description="Whether only nodes that the pod may run on count; absent is Honor."
    )
    node_taints_policy: Literal["Honor", "Ignore"] | None = Field(
        default=None, description="Whether nodes with taints that the pod doesn't tolerate are left out; absent is Ignore."
    )
    match_label_keys: Keys = Field(default=[], description="Labels whose values pods must share with the pod to be counted.")

    @model_validator(mode="after")
    def _domains_where_they_count(self) -> "TopologySpreadConstraint":
        if self.min_domains is not None and self.when_unsatisfiable != "DoNotSchedule":
            raise ValueError("minDomains needs whenUnsatisfiable: DoNotSchedule; set it, or remove minDomains")
        return self

"""FineTuneJob: what a user writes. The authority for fields, defaults and descriptions; the CRD is generated from it.

In: a mapping that came from YAML or the API server. Out: a frozen value with every default filled in. Rules that look at
one object are here; arithmetic over several, and what is not built yet, is in `plan`. This room does no I/O.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from finetune_api.keys import API_VERSION, KIND

# Kubernetes keeps whole numbers in 64 bits.
LARGEST_INTEGER = 2**63 - 1


def _whole(value: Any) -> Any:
    """JSON knows one kind of number: kubectl sends 3.0 and 1e3 of a YAML file as 3 and 1000."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Natural = Annotated[int, Field(ge=0, le=LARGEST_INTEGER), BeforeValidator(_whole)]
Positive = Annotated[int, Field(ge=1, le=LARGEST_INTEGER), BeforeValidator(_whole)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
# Every text and list has a largest size: the API server limits what comparing them may cost, and etcd what an object may weigh.
Word = Annotated[str, Field(min_length=1, max_length=256)]
Place = Annotated[str, Field(min_length=1, max_length=1024)]
Prose = Annotated[str, Field(max_length=16384)]
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
    """An object of the spec."""


def _at_most_one(value: BaseModel, *names: str) -> None:
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


class ModelShape(Spec):
    """The numbers of a decoder-only transformer that memory and time depend on."""

    architecture: Word = Field(description="Transformers class, for example `GPTBigCodeForCausalLM`.")
    layers: Positive = Field(description="Decoder layers.")
    hidden_size: Positive = Field(description="Width of the residual stream.")
    intermediate_size: Positive = Field(description="Width of the feed-forward layer.")
    attention_heads: Positive = Field(description="Query heads.")
    key_value_heads: Positive = Field(description="Key and value heads; 1 is multi-query.")
    head_size: Positive = Field(description="Width of one head.")
    vocabulary_size: Positive = Field(description="Rows of the embedding, before control tokens are added.")
    positions: Positive = Field(description="Longest sequence the model can take.")
    parameters: Positive = Field(description="Parameters in all, tied ones counted once.")


class ModelCache(Spec):
    """A PersistentVolumeClaim that keeps downloaded weights between jobs."""

    claim_name: ObjectName = Field(description="Name of the PersistentVolumeClaim.")


class BaseModelSpec(Spec):
    """The base model."""

    name: Place = Field(
        description="Hub id (`org/name`), `s3://bucket/prefix`, or a directory (`./x`, `../x`, `/x`; relative to the job file).",
    )
    revision: Word = Field(default="main", description="Branch, tag or commit on the Hub; resolved to a commit before training.")
    initialization: Literal["pretrained", "random"] = Field(
        default="pretrained", description="`random` trains from the directory's config.json with weights drawn from training.seed."
    )
    token_secret: SecretKey | None = Field(default=None, description="Hub token for gated or private models.")
    cache: ModelCache | None = Field(default=None, description="Where weights are kept between jobs.")
    shape: ModelShape | None = Field(
        default=None, description="For planning before config.json can be read; checked against it afterwards."
    )


class Columns(Spec):
    """Column names that differ from what the format expects."""

    messages: Word | None = Field(default=None, description="Column of `messages` or `conversations`.")
    prompt: Word | None = Field(default=None, description="Column of the user's text.")
    completion: Word | None = Field(default=None, description="Column of the assistant's text.")
    context: Word | None = Field(default=None, description="Column of additional input (alpaca `input`, dolly `context`).")
    system: Word | None = Field(default=None, description="Column of a system text.")
    tree: Word | None = Field(default=None, description="Column that groups rows which must stay on one side of the split.")


class DataFilter(Spec):
    """Which paths of an OASST tree become dialogues."""

    languages: Annotated[list[Word], Field(max_length=64)] = Field(
        default=[], description="Keep paths whose every message is in one of these languages; empty keeps all."
    )
    top_answers: Positive | None = Field(default=None, description="Follow only the k best-ranked assistant replies to each message.")


Format = Literal["auto", "messages", "prompt-completion", "oasst", "sharegpt", "alpaca", "dolly"]


class DataSource(Spec):
    """One source of dialogues."""

    name: Place = Field(
        description="Hub data set (`org/name`), `s3://bucket/key-or-prefix`, or a file or folder "
        "(`./x`, `../x`, `/x`; relative to the job file).",
    )
    config: Word | None = Field(default=None, description="Configuration of a Hub data set.")
    revision: Word = Field(default="main", description="Branch, tag or commit of a Hub data set.")
    split: Word = Field(default="train", description="Split to train on. `train` falls back to `train_ift`, with a notice.")
    format: Format = Field(default="auto", description="Schema of the rows; `auto` looks at the first row.")
    columns: Columns = Field(default=Columns(), description="Column names that differ from the format's own.")
    filter: DataFilter = Field(default=DataFilter(), description="For `oasst`: which paths are used.")
    weight: Annotated[float, Field(gt=0.0)] = Field(
        default=1.0, description="Share of the source's dialogues: 0.5 uses a seeded half of its trees, 2.0 each twice."
    )
    limit: Positive | None = Field(default=None, description="At most this many dialogues, before the weight.")
    token_secret: SecretKey | None = Field(default=None, description="Hub token for a gated or private data set.")
    credentials_secret: SecretName | None = Field(
        default=None, description="Keys for an `s3://` source; absent uses those of the checkpoints."
    )


class EvaluationData(Spec):
    """Held-out dialogues: a split of the same sources, or a share of the training split taken by tree."""

    split: Word | None = Field(default=None, description="Split to evaluate on. `test` falls back to `test_ift`, with a notice.")
    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(default=None, description="Share of conversation trees held out.")

    @model_validator(mode="after")
    def _one_way(self) -> "EvaluationData":
        _at_most_one(self, "split", "fraction")
        return self


class Dataset(Spec):
    """What is learnt from."""

    sources: Annotated[list[DataSource], Field(min_length=1, max_length=64)] = Field(description="A mixture of sources.")
    evaluation: EvaluationData | None = Field(default=None, description="Held-out dialogues; absent means no evaluation loss.")
    max_invalid_rows: Natural = Field(
        default=0, description="Rows that may be wrong and are then dropped and reported; one more refuses the data."
    )
    overlong_turns: Literal["drop", "cut"] = Field(
        default="drop",
        description="What happens to one turn that is longer than a row: dropped, or cut without its end token. Counted either way.",
    )
    repeated_messages: Literal["every", "once"] = Field(
        default="every", description="`once` supervises an assistant message that several paths of a tree share in one of them only."
    )
    trailing_user_turns: Literal["trim", "keep"] = Field(default="trim", description="Turns after the last assistant turn.")
    processes: Positive = Field(default=2, description="Processes that read and tokenise.")


class ControlTokens(Spec):
    """Tokens of a custom template; each becomes one id."""

    system: Word = Field(default="<|system|>", description="Opens a system turn.")
    user: Word = Field(default="<|user|>", description="Opens a user turn.")
    assistant: Word = Field(default="<|assistant|>", description="Opens an assistant turn.")
    end: Word = Field(default="<|end|>", description="Closes a turn.")

    @model_validator(mode="after")
    def _distinct(self) -> "ControlTokens":
        if len({self.system, self.user, self.assistant, self.end}) < 4:
            raise ValueError("two control tokens are the same; give four different ones")
        return self


class TemplateSpec(Spec):
    """How a dialogue becomes text, and which part of it is learnt."""

    name: Literal["default", "no_system", "alpaca", "model", "custom"] = Field(
        default="default",
        description="`default`: a short system sentence; `no_system`: an empty system turn (the blog's training); `alpaca`; "
        "`model`: the tokenizer's own chat template; `custom`: `tokens` and `systemText`.",
    )
    token_order: Literal["blog", "published"] = Field(
        default="blog",
        description="Order in which new tokens get ids: `blog` system, assistant, user, end; `published` system, user, assistant, end.",
    )
    masking: Literal["assistant", "blog"] = Field(
        default="assistant", description="`assistant` supervises answers and their end token; `blog` everything but user turns."
    )
    system_turn: bool = Field(default=True, description="Whether a system turn is rendered when the dialogue has none of its own.")
    system_text: Prose | None = Field(default=None, description="Text of that turn; absent uses the template's own.")
    tokens: ControlTokens | None = Field(default=None, description="Control tokens, for `custom`.")

    @model_validator(mode="after")
    def _tokens_are_custom(self) -> "TemplateSpec":
        if (self.tokens is not None) != (self.name == "custom"):
            raise ValueError("tokens and name: custom go together; set both or neither")
        return self


class Optimizer(Spec):
    """AdamW and its schedule."""

    name: Literal["adamw"] = Field(default="adamw", description="The optimizer.")
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = Field(default=2.0e-5, description="Peak learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="Shape after warm-up; cosine and linear end at 0."
    )
    warmup_ratio: Share | None = Field(
        default=None, description="Share of all steps that warm up linearly; absent, with warmupSteps absent too, means 0.03."
    )
    warmup_steps: Natural | None = Field(default=None, description="Steps that warm up linearly.")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(default=0.0, description="Decoupled weight decay, on matrices only.")
    gradient_clipping: Annotated[float, Field(gt=0.0)] = Field(default=1.0, description="Largest global L2 norm of the gradient.")
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(default=0.9, description="Decay of the first moment.")
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(default=0.999, description="Decay of the second moment.")
    epsilon: Annotated[float, Field(gt=0.0)] = Field(default=1.0e-8, description="Added to the root of the second moment.")

    @model_validator(mode="after")
    def _one_warmup(self) -> "Optimizer":
        _at_most_one(self, "warmup_ratio", "warmup_steps")
        return self

    @property
    def effective_warmup_ratio(self) -> float | None:
        """The ratio after its default; None where warmupSteps counts instead."""
        return 0.03 if self.warmup_ratio is None and self.warmup_steps is None else self.warmup_ratio


class Offload(Spec):
    """Where a part of the state lives between uses."""

    model_config = ConfigDict(alias_generator=None)
    device: Literal["none", "cpu", "nvme"] = Field(default="none", description="Memory that holds it.")
    pin_memory: bool = Field(default=False, description="Page-locked host memory.")


class ZeroOptimization(Spec):
    """Keys of DeepSpeed's `zero_optimization`, under DeepSpeed's own names; absent means DeepSpeed's or our default."""

    model_config = ConfigDict(alias_generator=None)
    overlap_comm: bool = Field(default=True, description="Overlap gradient reduction with the backward pass.")
    contiguous_gradients: bool = Field(default=True, description="Copy gradients to one buffer as they are made.")
    sub_group_size: Positive = Field(default=1_000_000_000, description="Elements updated at a time by the optimizer.")
    reduce_bucket_size: Positive | None = Field(default=None, description="Elements reduced at a time; absent: hidden size squared.")
    stage3_prefetch_bucket_size: Natural | None = Field(default=None, description="Elements prefetched; absent: 0.9 x hidden size squared.")
    stage3_param_persistence_threshold: Natural | None = Field(
        default=None, description="Smaller parameters are never partitioned; absent: 10 x hidden size."
    )
    stage3_max_live_parameters: Positive = Field(default=1_000_000_000, description="Gathered elements alive at once.")
    stage3_max_reuse_distance: Positive = Field(
        default=1_000_000_000, description="Keep a parameter that is used again within this many elements."
    )
    offload_optimizer: Offload | None = Field(default=None, description="Offload optimizer state. Not built yet.")
    offload_param: Offload | None = Field(default=None, description="Offload parameters. Not built yet.")


class Lora(Spec):
    """Low-rank adapters."""

    rank: Positive = Field(default=16, description="Rank of the update.")
    alpha: Annotated[float, Field(gt=0.0)] = Field(default=32.0, description="Scale of the update.")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(default=0.0, description="Dropout before the adapter.")
    target_modules: Annotated[list[Word], Field(max_length=64)] = Field(
        default=[], description="Modules to adapt; empty means every linear layer."
    )


class Training(Spec):
    """How it is learnt. Rows are packed sequences of at most maxSequenceLength tokens."""

    method: Literal["full", "lora"] = Field(default="full", description="All parameters, or low-rank adapters. `lora` is not built yet.")
    lora: Lora | None = Field(default=None, description="Settings of `method: lora`. Not built yet.")
    sharding: Literal["zero3", "zero2"] = Field(default="zero3", description="What is partitioned over workers. `zero2` is not built yet.")
    deepspeed: ZeroOptimization = Field(default=ZeroOptimization(), description="Keys of DeepSpeed's zero_optimization.")
    epochs: Positive | None = Field(default=None, description="Passes over the data; absent, with maxSteps absent too, means 3.")
    max_steps: Positive | None = Field(default=None, description="Optimizer steps, instead of epochs.")
    max_sequence_length: Annotated[int, Field(ge=8, le=LARGEST_INTEGER), BeforeValidator(_whole)] = Field(
        default=1024, description="Tokens in a packed row."
    )
    micro_batch_size: Positive = Field(default=4, description="Rows per worker and micro-step.")
    global_batch_size: Positive = Field(default=256, description="Rows per optimizer step, over all workers.")
    optimizer: Optimizer = Field(default=Optimizer(), description="The optimizer and its schedule.")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto",
        description="Arithmetic of forward and backward. `auto` takes bf16 where the hardware is fast at it, else fp32. Masters are fp32.",
    )
    tf32: bool = Field(default=True, description="TensorFloat-32 for fp32 matrix products on GPUs that have it.")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(default=0.0, description="Every dropout of the model.")
    activation_checkpointing: bool = Field(default=True, description="Recompute activations in the backward pass.")
    log_every_steps: Positive = Field(default=1, description="Steps between lines of metrics; the first step is always one.")
    seed: Natural = Field(default=42, description="Seed of data order, new embeddings and dropout.")

    @model_validator(mode="after")
    def _one_length(self) -> "Training":
        _at_most_one(self, "epochs", "max_steps")
        if self.lora is not None and self.method != "lora":
            raise ValueError("lora is given, but method is full; set method: lora or remove lora")
        return self

    @property
    def effective_epochs(self) -> int | None:
        """Epochs after their default; None where maxSteps counts instead."""
        return 3 if self.epochs is None and self.max_steps is None else self.epochs


Quantities = Annotated[dict[str, Quantity], Field(max_length=32)]


class Resources(Spec):
    """Kubernetes resources of a container."""

    requests: Quantities = Field(default={}, description='Quantities asked for, for example `cpu: "8"`, `memory: 64Gi`.')
    limits: Quantities = Field(default={}, description="Quantities never passed.")


class EnvVar(Spec):
    """An environment variable of a container. Ours win over it. For secret values use the Secret fields."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256, description="Name of the variable.")
    value: Prose = Field(default="", description="Value of the variable.")


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


class EmptyDir(Spec):
    """Node-local scratch space."""

    medium: Literal["", "Memory"] = Field(default="", description="`Memory` is a tmpfs.")
    size_limit: Quantity | None = Field(default=None, description="Largest size, a quantity.")


class ClaimVolume(Spec):
    """An existing PersistentVolumeClaim."""

    claim_name: ObjectName = Field(description="Name of the claim.")


class EphemeralVolume(Spec):
    """A claim made for the pod and deleted with it."""

    storage_class_name: ObjectName | None = Field(default=None, description="Storage class; absent is the cluster's default.")
    size: Quantity = Field(description="Size, a quantity.")


class NamedVolume(Spec):
    """A ConfigMap or Secret as files."""

    name: ObjectName = Field(description="Name of the object.")


class Volume(Spec):
    """A volume and where it is mounted. Exactly one kind of source; hostPath is not offered."""

    name: DnsLabel = Field(description="Name of the volume.")
    mount_path: str = Field(pattern=r"^/[^:]*$", max_length=1024, description="Absolute path inside the containers.")
    read_only: bool = Field(default=False, description="Mount read-only.")
    persistent_volume_claim: ClaimVolume | None = Field(default=None, description="An existing claim.")
    ephemeral: EphemeralVolume | None = Field(default=None, description="A claim of the pod's own.")
    empty_dir: EmptyDir | None = Field(default=None, description="Scratch space.")
    config_map: NamedVolume | None = Field(default=None, description="Files from a ConfigMap.")
    secret: NamedVolume | None = Field(default=None, description="Files from a Secret.")

    @model_validator(mode="after")
    def _one_source(self) -> "Volume":
        kinds = ("persistent_volume_claim", "ephemeral", "empty_dir", "config_map", "secret")
        _at_most_one(self, *kinds)
        if all(getattr(self, kind) is None for kind in kinds):
            raise ValueError(f"a volume needs one of {', '.join(map(to_camel, kinds))}")
        return self


FreeObject = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]


class PodSettings(Spec):
    """The pod fields that a user may set. Anything else of a pod is ours."""

    image: Image | None = Field(default=None, description="Image; absent uses the operator's trainer image.")
    resources: Resources = Field(default=Resources(), description="Resources of the main container.")
    env: Annotated[list[EnvVar], Field(max_length=128)] = Field(default=[], description="Environment variables; ours win.")
    node_selector: Annotated[dict[str, LabelValue], Field(max_length=32)] = Field(default={}, description="Labels that nodes must have.")
    affinity: FreeObject | None = Field(default=None, description="A Kubernetes affinity.")
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(default=[], description="Taints that are tolerated.")
    scheduler_name: ObjectName | None = Field(default=None, description="Scheduler of the pods.")
    runtime_class_name: ObjectName | None = Field(default=None, description="RuntimeClass of the pods.")
    priority_class_name: ObjectName | None = Field(default=None, description="PriorityClass of the pods.")
    service_account_name: ObjectName | None = Field(default=None, description="ServiceAccount of the pods, for example for IRSA.")
    volumes: Annotated[list[Volume], Field(max_length=32)] = Field(default=[], description="Volumes mounted in the pods.")
    queue_name: DnsLabel | None = Field(
        default=None, description="Kueue LocalQueue: of the workers that of the RayJob, of cpuPods that of preparation and publication."
    )


class Workers(PodSettings):
    """The training workers."""

    nodes: Positive = Field(default=1, description="Worker pods, one a node.")
    min_nodes: Positive | None = Field(
        default=None, description="Fewest nodes to go on with; absent is `nodes`. Other values are not built yet."
    )
    gpus_per_node: Natural = Field(default=8, description="GPUs of each worker pod; one Ray Train worker each.")
    workers_per_node: Positive | None = Field(
        default=None, description="Ray Train workers per node, for `device: cpu`; absent is gpusPerNode."
    )
    device: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="`auto` is gpu when gpusPerNode is above 0, else cpu.")
    accelerator: Word | None = Field(default=None, description="GPU model for planning, for example nvidia-a100-80gb.")
    topology_spread_constraints: Annotated[list[FreeObject], Field(max_length=16)] = Field(
        default=[], description="Kubernetes topologySpreadConstraints."
    )
    start_deadline_seconds: Positive = Field(
        default=600, description="All pods must run within this time, or the attempt gives its GPUs back."
    )

    @property
    def world_size(self) -> int:
        """Ray Train workers in all."""
        return self.nodes * (self.workers_per_node or self.gpus_per_node)


class CheckpointInterval(Spec):
    """How often a checkpoint is committed."""

    seconds: Positive | None = Field(default=None, description="Seconds between checkpoints.")
    steps: Positive | None = Field(default=None, description="Optimizer steps between checkpoints.")

    @model_validator(mode="after")
    def _one_interval(self) -> "CheckpointInterval":
        _at_most_one(self, "seconds", "steps")
        if self.seconds is None and self.steps is None:
            raise ValueError("give seconds or steps, or remove every for the automatic interval")
        return self


class Checkpoints(Spec):
    """Where and how often the state is saved."""

    storage: Place | None = Field(
        default=None, description="`s3://bucket/prefix` or a directory; absent is the run folder, for `finetune run` only."
    )
    endpoint: str | None = Field(default=None, pattern=r"^https?://", max_length=1024, description="S3 endpoint; absent is AWS.")
    region: Word | None = Field(default=None, description="S3 region.")
    credentials_secret: SecretName | None = Field(default=None, description="Keys; absent uses the environment or the pod's identity.")
    ca_bundle: NamedVolume | None = Field(default=None, description="ConfigMap with `ca.crt` for the endpoint.")
    every: CheckpointInterval | None = Field(
        default=None,
        description="Interval; absent is automatic, from the measured cost of a checkpoint. One is always committed at the end.",
    )
    keep: Natural = Field(
        default=3, description="Newest checkpoints kept; 0 keeps all. The best one is kept too when publish.checkpoint is best."
    )


class Judge(Spec):
    """A language model that compares answers."""

    model: Word = Field(description="Name of the judging model.")
    endpoint: str = Field(pattern=r"^https?://", max_length=1024, description="OpenAI-compatible endpoint.")
    token_secret: SecretKey | None = Field(default=None, description="Token for the endpoint.")


class Evaluation(Spec):
    """What is measured."""

    every_epochs: Positive = Field(default=1, description="Epochs between evaluations; step 0 is always one.")
    micro_batch_size: Positive | None = Field(
        default=None, description="Rows per worker and forward pass; absent is training.microBatchSize."
    )
    benchmarks: Annotated[list[Word], Field(max_length=32)] = Field(
        default=[], description="Benchmarks run on the trained model. Not built yet."
    )
    judge: Judge | None = Field(default=None, description="A language model that compares answers. Not built yet.")


class Generation(Spec):
    """Defaults written to the published model's generation config."""

    temperature: Annotated[float, Field(ge=0.0)] = Field(default=0.2, description="0 is greedy.")
    top_k: Natural = Field(default=50, description="Candidates kept; 0 keeps all.")
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = Field(default=0.95, description="Probability mass kept.")
    repetition_penalty: Annotated[float, Field(gt=0.0)] = Field(default=1.2, description="1 is none.")
    min_new_tokens: Natural = Field(default=1, description="Shortest answer; the blog's 32 forbids short ones.")
    max_new_tokens: Positive = Field(default=256, description="Longest answer.")


class HubPublication(Spec):
    """A repository on the Hugging Face Hub."""

    repository: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=200, description="`org/name`; created when absent."
    )
    private: bool = Field(default=True, description="Visibility of a repository that we create.")
    revision: Word = Field(default="main", description="Branch to publish to; created when absent.")
    message: Prose | None = Field(default=None, description="Commit message; absent names job and step.")
    token_secret: SecretKey | None = Field(default=None, description="Token that may write.")
    when: Literal["end", "everyCheckpoint"] = Field(
        default="end", description="After training, or also at each checkpoint. `everyCheckpoint` is not built yet."
    )


class DirectoryPublication(Spec):
    """A directory, for example on a shared volume."""

    path: Place = Field(description="Directory; relative to the job file in `finetune run`.")


class Maximum(Spec):
    """An upper bound."""

    max: float = Field(description="Largest value that passes.")


class Gate(Spec):
    """What must hold before a model is published."""

    evaluation_loss: Maximum | None = Field(default=None, description="Evaluation loss of the published checkpoint.")


class Publish(Spec):
    """Where the trained model goes."""

    checkpoint: Literal["last", "best"] = Field(default="last", description="`best` is the one with the lowest evaluation loss.")
    hub: HubPublication | None = Field(default=None, description="A Hub repository.")
    directory: DirectoryPublication | None = Field(default=None, description="A directory.")
    gate: Gate = Field(default=Gate(), description="Conditions of publication.")

    @model_validator(mode="after")
    def _one_place(self) -> "Publish":
        _at_most_one(self, "hub", "directory")
        return self


class FailurePolicy(Spec):
    """How many failures a job survives. Preemption and node loss are not charged."""

    max_failures: Natural = Field(default=3, description="Failures that are charged before the job fails.")
    backoff_seconds: Positive = Field(default=30, description="Wait before the second attempt; doubles up to an hour.")


class Budget(Spec):
    """What a job may use at most."""

    gpu_hours: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None, description="GPU hours over all attempts. Used up, a checkpoint is committed and the job fails."
    )
    active_deadline_seconds: Positive | None = Field(default=None, description="Time from the first start.")


class FineTuneJobSpec(Spec):
    """What is wanted."""

    model: BaseModelSpec = Field(description="The base model.")
    dataset: Dataset = Field(description="What is learnt from.")
    template: TemplateSpec = Field(default=TemplateSpec(), description="How a dialogue becomes tokens and labels.")
    training: Training = Field(default=Training(), description="How it is learnt.")
    workers: Workers = Field(default=Workers(), description="The training workers.")
    cpu_pods: PodSettings = Field(default=PodSettings(), description="Head, preparation and publication pods.")
    checkpoints: Checkpoints = Field(default=Checkpoints(), description="Where and how often the state is saved.")
    evaluation: Evaluation = Field(default=Evaluation(), description="What is measured.")
    generation: Generation = Field(default=Generation(), description="Defaults of the published model.")
    publish: Publish = Field(default=Publish(), description="Where the trained model goes.")
    failure_policy: FailurePolicy = Field(default=FailurePolicy(), description="How many failures a job survives.")
    budget: Budget = Field(default=Budget(), description="What a job may use at most.")
    suspend: bool = Field(default=False, description="Stop after a checkpoint and give the GPUs back.")
    retry: Natural = Field(default=0, description="Raising it reopens a failed job at the stage that failed.")
    ttl_seconds_after_finished: Natural | None = Field(
        default=None, description="Delete the job this long after it finished; absent keeps it."
    )


class Metadata(Model):
    """The part of Kubernetes metadata that `finetune run` reads; other keys are the API server's business."""

    model_config = ConfigDict(extra="ignore")
    name: JobName = Field(description="Name of the job; also the name of the run folder.")
    namespace: str | None = Field(default=None, description="Namespace.")
    labels: dict[str, str] = Field(default={}, description="Labels.")
    annotations: dict[str, str] = Field(default={}, description="Annotations.")


class FineTuneJob(Model):
    """Turns a base language model into a chat assistant."""

    api_version: Literal["finetune.dev/v1alpha1"] = Field(default=API_VERSION, description="Version of this schema.")
    kind: Literal["FineTuneJob"] = Field(default=KIND, description="Always FineTuneJob.")
    metadata: Metadata = Field(description="Name and namespace.")
    spec: FineTuneJobSpec = Field(description="What is wanted.")

"""The model card: what a reader must know before using a published model, and the job that reproduces it.

In: what the report shows (run, measurements, data statistics) and the licence of the base model. Out: README.md as text, with YAML
front matter for the Hub, and finetunejob.yaml. Numbers come from these alone; what isn't known is shown as unknown. Nothing of
where the run took place or with which Secrets is in it: of a local path only the last part.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.checks import is_path
from finetune_api.finetunejob import BaseModelSpec, DataSource, FineTuneJob
from finetune_api.training_run import TrainingRun
from finetune_trainer.reporting.events import StepDone
from finetune_trainer.reporting.readable import count, duration

if TYPE_CHECKING:
    from finetune_trainer.reporting.report import ReportData

UNKNOWN = "unknown"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CURVE_POINTS = 12
# Parts of the spec that say what was learnt and how; the others say where, for whom and with which Secrets.
_PUBLIC = ("model", "dataset", "template", "training", "evaluation", "generation")
_PUBLIC_WORKERS = ("nodes", "gpusPerNode", "workersPerNode", "device", "accelerator", "peakTeraflops")
_PRIVATE = {"tokenSecret", "credentialsSecret", "cache"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """The base model's licence as its own card gives it."""

    id: str = UNKNOWN
    name: str | None = None
    link: str | None = None


def card_texts(data: "ReportData", *, step: int, licence: Licence = Licence(), hardware: str = "") -> dict[str, str]:
    """README.md and finetunejob.yaml, by file name: what `export.describe` adds to an exported folder."""
    return {"README.md": model_card(data, step=step, licence=licence, hardware=hardware), "finetunejob.yaml": public_job(data.run)}


def base_licence(base: Path) -> Licence:
    """The licence in the front matter of the base model's README.md; unknown when there is none."""
    import yaml

    try:
        text = (base / "README.md").read_text(encoding="utf-8", errors="replace")
        matter = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else {}
    except (OSError, yaml.YAMLError, IndexError):
        matter = {}
    values = {key: value for key, value in matter.items() if isinstance(value, str)} if isinstance(matter, dict) else {}
    return Licence(id=values.get("license", UNKNOWN), name=values.get("license_name"), link=values.get("license_link"))


def public_job(run: TrainingRun) -> str:
    """finetunejob.yaml: the job with every default, the base model pinned to its commit, without Secrets, storage and pod settings.

    Local files are expected beside it: `/home/ann/rows.jsonl` becomes `./rows.jsonl`.
    """
    import yaml

    spec = run.job.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    public: dict[str, Any] = {name: _without(spec[name], _PRIVATE) for name in _PUBLIC}
    public["workers"] = {name: value for name, value in spec["workers"].items() if name in _PUBLIC_WORKERS}
    if is_hub_id(run.job.spec.model.name):
        public["model"]["revision"] = run.model_revision
    public["model"]["name"] = _beside(public["model"]["name"])
    for source in public["dataset"]["sources"]:
        source["path"] = _beside(source["path"])
    job = {"apiVersion": run.job.api_version, "kind": run.job.kind, "metadata": {"name": run.job.metadata.name}, "spec": public}
    # Checked, so that what is published can be loaded by whoever finds it.
    FineTuneJob.model_validate(job)
    return yaml.safe_dump(job, sort_keys=False, allow_unicode=True, width=120)


def model_card(data: "ReportData", *, step: int, licence: Licence = Licence(), hardware: str = "") -> str:
    """README.md of the model of `step`. Measurements of later steps are left out."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("finetune_trainer.publishing", "."), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    environment.filters |= {"cell": cell, "thousands": lambda number: f"{number:,}"}
    measured = replace(data, measurements=[event for event in data.measurements if event.step <= step])
    return environment.get_template("model_card.md.jinja").render(_values(measured, step, licence, hardware))


def _values(data: "ReportData", step: int, licence: Licence, hardware: str) -> dict[str, Any]:
    """What the template shows."""
    run, spec = data.run, data.run.job.spec
    base = _linked(spec.model.name)
    return {
        "front_matter": front_matter(run, licence),
        "title": run.job.metadata.name,
        "citation_key": re.sub(r"\W", "", run.job.metadata.name) or "model",
        "place": spec.publish.hub.repository if spec.publish.hub else run.job.metadata.name,
        "base": base,
        "base_plain": _shown(spec.model.name),
        "step": step,
        "longest_answer": spec.generation.max_new_tokens,
        "total_steps": run.plan.total_steps or UNKNOWN,
        "base_rows": _base_rows(run, base),
        "data": run.data,
        "sources": [_source(source) for source in spec.dataset.sources],
        "splits": [("train", run.data.train)] + ([("evaluation", run.data.evaluation)] if run.data.evaluation else []),
        "dropped": _dropped(data),
        "template_rows": _template_rows(run),
        "training_rows": _training_rows(run),
        "evaluations": data.evaluations,
        "curve": thinned(data.steps, _CURVE_POINTS),
        "hardware_rows": _hardware_rows(data, hardware),
        "positions": run.model_shape.positions,
        "row_length": spec.training.max_sequence_length,
        "licence_text": _licence_text(licence, base),
        "run_digest": run.digest,
        "job_text": public_job(run),
    }


def front_matter(run: TrainingRun, licence: Licence) -> str:
    """The YAML that the Hub reads: licence, base model, data sets, tags."""
    import yaml

    spec = run.job.spec
    matter: dict[str, Any] = {"license": licence.id}
    matter |= {key: value for key, value in (("license_name", licence.name), ("license_link", licence.link)) if value}
    if is_hub_id(spec.model.name):
        matter |= {"base_model": spec.model.name, "base_model_relation": "finetune"}
    datasets = list(dict.fromkeys(source.path for source in spec.dataset.sources if is_hub_id(source.path)))
    matter |= {"datasets": datasets} if datasets else {}
    matter |= {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["conversational", "finetune-operator"]}
    return yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)


def thinned(steps: Sequence[StepDone], points: int) -> list[StepDone]:
    """At most `points` of the steps, evenly, the first and the last among them.

    >>> thinned([], 3)
    []
    """
    if len(steps) <= points:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (points - 1))] for index in range(points)]


def cell(value: object) -> str:
    """Text for a Markdown table: one line, and nothing that would end the cell or begin HTML.

    >>> cell("a|b\\nc <script>")
    'a\\\\|b c &lt;script>'
    """
    return " ".join(str(value).split()).replace("|", r"\|").replace("<", "&lt;")


def is_hub_id(name: str) -> bool:
    """Whether a model or data set is named by its Hub id, rather than by a path or an s3:// address."""
    return _HUB_ID.fullmatch(name) is not None


def _shown(name: str) -> str:
    """A Hub id as it is; of a path or an address only the last part, since the rest tells of the author's machines."""
    return name if is_hub_id(name) else name.rstrip("/").rsplit("/", 1)[-1]


def _beside(name: str) -> str:
    """A local path as one beside the job file; a Hub id or an address as it is."""
    return f"./{_shown(name)}" if is_path(name) else name


def _linked(name: str) -> str:
    return f"[{name}](https://huggingface.co/{name})" if is_hub_id(name) else f"`{_shown(name)}`"


def _without(value: Any, keys: set[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _without(item, keys) for key, item in value.items() if key not in keys}
    return [_without(item, keys) for item in value] if isinstance(value, list) else value


def _base_rows(run: TrainingRun, base: str) -> list[tuple[str, str]]:
    model: BaseModelSpec = run.job.spec.model
    random = [("initialization", "random: the base gives the architecture only")] if model.initialization == "random" else []
    return [
        ("model", base),
        ("revision", f"`{run.model_revision}`"),
        ("architecture", run.model_shape.architecture),
        ("parameters", count(run.model_shape.parameters)),
        *random,
    ]


def _source(source: DataSource) -> dict[str, str]:
    hub = is_hub_id(source.path)
    return {
        "name": _linked(source.path),
        "revision": source.revision if hub else "local",
        "split": source.split,
        "format": source.format,
        "weight": f"{source.weight:g}",
        "limit": f"{source.limit:,}" if source.limit else "none",
    }


def _dropped(data: "ReportData") -> list[tuple[str, str, int]]:
    return [
        (_shown(source.name), reason, number) for source in data.statistics.sources for reason, number in sorted(source.dropped.items())
    ]


# Templates whose tokens are new to the tokenizer, in the order that the job says.
_WITH_TOKENS = ("auto", "default", "no_system", "custom")
_TOKEN_ORDERS = {"blog": "system, assistant, user, end", "published": "system, user, assistant, end"}
_LEARNT = {
    "assistant": "the assistant's text and its end token, nothing else",
    "last_assistant": "the last answer of each dialogue and its end token, nothing else",
    "all": "every token",
    "blog": "everything but user turns",
}


def _template_rows(run: TrainingRun) -> list[tuple[str, str]]:
    spec = run.job.spec.template
    tokens = [("token order", f"`{spec.token_order}` ({_TOKEN_ORDERS[spec.token_order]})")] if spec.name in _WITH_TOKENS else []
    return [("name", f"`{spec.name}`"), *tokens, ("learnt", _LEARNT[spec.masking])]


def _training_rows(run: TrainingRun) -> Iterable[tuple[str, object]]:
    training, plan = run.job.spec.training, run.plan
    optimizer = training.optimizer
    length = f"{training.max_steps} steps" if training.max_steps else f"{training.effective_epochs} epochs"
    warmup = UNKNOWN if plan.warmup_steps is None else plan.warmup_steps
    return [
        ("method", f"{training.method}, DeepSpeed {training.sharding.replace('zero', 'ZeRO-')}"),
        ("length", f"{length}, {plan.total_steps or UNKNOWN} steps"),
        ("rows per step", f"{plan.global_batch_size} packed rows of {training.max_sequence_length} tokens"),
        ("batch", f"{plan.world_size} workers x {plan.micro_batch_size} rows x {plan.micro_steps} micro-steps"),
        ("optimizer", f"AdamW, beta {optimizer.beta1:g} and {optimizer.beta2:g}, epsilon {optimizer.epsilon:g}"),
        (
            "learning rate",
            f"{optimizer.learning_rate:g}, {optimizer.schedule}, {warmup} warm-up steps",
        ),
        ("weight decay", f"{optimizer.weight_decay:g}"),
        ("gradient clipping", f"{optimizer.gradient_clipping:g}"),
        ("precision", f"{plan.precision}, fp32 master weights"),
        ("dropout", f"{training.dropout:g}"),
        ("seed", training.seed),
    ]


def _hardware_rows(data: "ReportData", hardware: str) -> list[tuple[str, str]]:
    plan = data.run.plan
    seconds = data.seconds_in_steps
    what = hardware or plan.accelerator or (UNKNOWN if plan.device == "gpu" else "CPU")
    hours = f"{seconds * plan.world_size / 3600:.2f}" if data.steps else UNKNOWN
    tokens = sum(step.tokens for step in data.steps) * data.steps_done_per_measured
    pace = f"{tokens / seconds:,.0f}" if seconds else UNKNOWN
    return [
        ("hardware", what),
        ("workers", f"{plan.world_size} on {plan.nodes} machine{'s' if plan.nodes > 1 else ''}"),
        ("training time", duration(seconds) if data.steps else UNKNOWN),
        (f"{plan.device.upper()} hours", f"{hours} (training steps only)"),
        ("tokens per second", pace),
        ("versions", ", ".join(f"{name} {version}" for name, version in data.versions.items()) or UNKNOWN),
    ]


def _licence_text(licence: Licence, base: str) -> str:
    if licence.id == UNKNOWN:
        return f"The licence of {base} is unknown to this card. It binds these weights too, which derive from it: look it up before use."
    name = licence.name or licence.id
    shown = f"[{name}]({licence.link})" if licence.link and licence.link.startswith("https://") else name
    text = f"Inherited from {base}: {shown}. The licences of the data above apply as well."
    if "rail" in f"{licence.id} {licence.name}".lower():
        text += " Its use restrictions travel with the weights: whoever passes them on must pass the restrictions on too."
    return text

"""The model card: what a reader must know before using a published model, and the job that reproduces it.

In: what the report shows (run, measurements, data statistics, evaluation), what the base model's own card says, and the template with its
ids. Out: README.md as text, with YAML front matter for the Hub, and finetunejob.yaml. Numbers come from these alone; what isn't known is
shown as unknown. Nothing of where the run took place or with which Secrets is in it: of a local path only the last part.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finetune_api.engines import engine_name, engine_text
from finetune_api.evaluation_summary import EvaluationSummary
from finetune_api.finetunejob import BaseModelSpec, DataSource, FineTuneJob, Training
from finetune_api.training_run import TrainingRun
from finetune_trainer.data.cards import LONGEST_README, README, HubCard, hub_card
from finetune_trainer.publishing.card_evaluation import MOST_TASKS, card_samples, model_index
from finetune_trainer.publishing.markdown import cell, code, fenced, plain
from finetune_trainer.publishing.public_names import beside, is_hub_id, is_on_hub, loadable, shown
from finetune_trainer.reporting.evaluated import UNKNOWN, benchmarks, verdict_of
from finetune_trainer.reporting.events import StepDone, StoppedEarly
from finetune_trainer.reporting.readable import count, duration
from finetune_trainer.templates.registry import template_from_json
from finetune_trainer.templates.turns import Template

if TYPE_CHECKING:
    from finetune_trainer.reporting.report import ReportData, SourceStatistics

_HUB = "https://huggingface.co"
_CURVE_POINTS = 12
# Parts of the spec that say what was learnt and how; the others say where, for whom and with which Secrets.
_PUBLIC = ("model", "dataset", "template", "training", "evaluation", "generation")
_PUBLIC_WORKERS = ("nodes", "gpusPerNode", "workersPerNode", "device", "accelerator", "peakTeraflops")
_PRIVATE = {"tokenSecret", "credentialsSecret", "apiKeySecret", "baseUrl", "cache", "pod"}
# Licences of a Hub card are ids in small letters; anything else is refused when it is pushed there.
_LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")
_NO_CARD = HubCard()
# What the Hub takes for `license_link` beside addresses.
_LICENCE_FILES = ("LICENSE", "LICENSE.md")


def card_texts(data: "ReportData", *, step: int, base: Path, exported: Path, hardware: str = "") -> dict[str, str]:
    """README.md and finetunejob.yaml, by file name: what `export.describe` adds to `exported`. `base`: the base model's files."""
    template = template_from_json((exported / "dialogue_template.json").read_text(encoding="utf-8"))
    adapter = (exported / "adapter_config.json").is_file()
    card = model_card(data, step=step, base=read_card(base), template=template, hardware=hardware, adapter=adapter)
    return {README: card, "finetunejob.yaml": public_job(data.run)}


def read_card(folder: Path) -> HubCard:
    """The card of a model's folder; an empty one when it has none."""
    try:
        with (folder / README).open(encoding="utf-8", errors="replace") as file:
            return hub_card(file.read(LONGEST_README))
    except OSError:
        return HubCard()


def public_job(run: TrainingRun) -> str:
    """finetunejob.yaml: the job with every default, the base model pinned to its commit, without Secrets, storage and pod settings.

    Local files are expected beside it: `/home/ann/rows.jsonl` becomes `./rows.jsonl`.
    """
    import yaml

    spec = run.job.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    public: dict[str, Any] = {name: _without(spec[name], _PRIVATE) for name in _PUBLIC}
    evaluation = public["evaluation"]
    for place, key in ((evaluation, "taskData"), *((evaluation.get(name, {}), "prompts") for name in ("judge", "samples"))):
        if key in place:
            place[key] = beside(place[key])
    public["workers"] = {name: value for name, value in spec["workers"].items() if name in _PUBLIC_WORKERS}
    if is_hub_id(run.job.spec.model.name):
        public["model"]["revision"] = run.model_revision
    public["model"]["name"] = beside(public["model"]["name"])
    for source in public["dataset"]["sources"]:
        source["path"] = beside(source["path"])
    job = {"apiVersion": run.job.api_version, "kind": run.job.kind, "metadata": {"name": run.job.metadata.name}, "spec": public}
    # Checked, so that what is published can be loaded by whoever finds it.
    FineTuneJob.model_validate(job)
    return yaml.safe_dump(job, sort_keys=False, allow_unicode=True, width=120)


def model_card(
    data: "ReportData",
    *,
    step: int,
    base: HubCard = _NO_CARD,
    template: Template | None = None,
    hardware: str = "",
    adapter: bool = False,
) -> str:
    """README.md of the model of `step`. Measurements of later steps, and an evaluation of another one, are left out.

    `template`: that of the exported folder, with the ids of its tokens. `adapter`: the folder holds adapters alone.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("finetune_trainer.publishing", "."), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    environment.filters |= {"cell": cell, "plain": plain, "code": code, "thousands": lambda number: f"{number:,}"}
    evaluation = data.evaluation if data.evaluation is not None and data.evaluation.step == step else None
    measurements = [event for event in data.measurements if event.step <= step or isinstance(event, StoppedEarly)]
    measured = replace(data, measurements=measurements, evaluation=evaluation)
    return environment.get_template("model_card.md.jinja").render(_values(measured, step, base, template, hardware, adapter))


def _values(data: "ReportData", step: int, card: HubCard, template: Template | None, hardware: str, adapter: bool) -> dict[str, Any]:
    """What the template shows."""
    run, spec = data.run, data.run.job.spec
    base = _linked(spec.model.name)
    sources = _sources(data)
    return {
        "front_matter": front_matter(run, card, data.evaluation, adapter=adapter),
        "is_adapter": adapter,
        "title": run.job.metadata.name,
        "citation_key": re.sub(r"\W", "", run.job.metadata.name) or "model",
        "place": spec.publish.hub.repository if spec.publish.hub else run.job.metadata.name,
        "base": base,
        "base_plain": shown(spec.model.name),
        "base_folder": None if is_on_hub(spec.model.name) else loadable(spec.model.name),
        "base_revision": run.model_revision,
        "step": step,
        "longest_answer": spec.generation.max_new_tokens,
        "total_steps": run.plan.total_steps or UNKNOWN,
        "stopped_early": data.stopped_early,
        "base_rows": _base_rows(run, base, card),
        "data": run.data,
        "sources": sources,
        "splits": [("train", run.data.train)] + ([("evaluation", run.data.evaluation)] if run.data.evaluation else []),
        "dropped": _dropped(data),
        "template_rows": _template_rows(run, template),
        "training_rows": _training_rows(run),
        "evaluations": data.evaluations,
        "evaluation": _evaluation(data.evaluation),
        "curve": thinned(data.steps, _CURVE_POINTS),
        "hardware_rows": _hardware_rows(data, hardware),
        "positions": run.model_shape.positions,
        "row_length": spec.training.max_sequence_length,
        "base_is_of_code": card.is_of_code,
        "limitations": (spec.publish.card.limitations or "").strip(),
        "licence_text": _licence_text(card, run, sources),
        "citations": _citations(run, card, sources),
        "run_digest": run.digest,
        "job_text": public_job(run),
    }


def front_matter(run: TrainingRun, card: HubCard, evaluation: EvaluationSummary | None = None, *, adapter: bool = False) -> str:
    """The YAML that the Hub reads: licence, base model, data sets, tags, results of benchmarks."""
    import yaml

    spec = run.job.spec
    matter: dict[str, Any] = _licence_matter(card, run)
    if is_hub_id(spec.model.name) and spec.model.initialization == "pretrained":
        matter |= {"base_model": spec.model.name, "base_model_relation": "adapter" if adapter else "finetune"}
    datasets = list(dict.fromkeys(source.path for source in spec.dataset.sources if is_hub_id(source.path)))
    matter |= {"datasets": datasets} if datasets else {}
    tags = ["conversational", *(["code"] if card.is_of_code else []), "finetune-operator"]
    matter |= {"library_name": "peft" if adapter else "transformers", "pipeline_tag": "text-generation", "tags": tags}
    index = model_index(run.job.metadata.name, evaluation) if evaluation is not None else []
    matter |= {"model-index": index} if index else {}
    return yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)


def _licence_matter(card: HubCard, run: TrainingRun) -> dict[str, Any]:
    """Of a licence that is not written as the Hub writes one, the name."""
    ids, name = card.licences, card.licence_name
    if not ids:
        return {"license": UNKNOWN}
    if not all(map(_LICENCE_ID.fullmatch, ids)):
        name = name or ids[0]
        ids = ("other",)
    named = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") if "other" in ids else name
    link = _licence_link(card, run)
    given = {key: value for key, value in (("license_name", named), ("license_link", link)) if value}
    return {"license": ids[0] if len(ids) == 1 else list(ids), **given}


def _licence_link(card: HubCard, run: TrainingRun) -> str:
    """An address, or a file that was exported with the model; of a file of the base model on the Hub its address there."""
    link, model = card.licence_link, run.job.spec.model.name
    if re.fullmatch(r"https://[^\s<>()]+", link) or link in _LICENCE_FILES:
        return link
    relative = re.fullmatch(r"[\w.-]+(/[\w.-]+)*", link)
    return f"{_HUB}/{model}/blob/{run.model_revision}/{link}" if relative and is_hub_id(model) else ""


def thinned(steps: Sequence[StepDone], points: int) -> list[StepDone]:
    """At most `points` of the steps, evenly, the first and the last among them.

    >>> thinned([], 3)
    []
    """
    if len(steps) <= points:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (points - 1))] for index in range(points)]


def _linked(name: str, kind: str = "") -> str:
    """`kind`: `datasets/` where the Hub keeps data."""
    return f"[{name}]({_HUB}/{kind}{name})" if is_hub_id(name) else code(shown(name))


def _without(value: Any, keys: set[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _without(item, keys) for key, item in value.items() if key not in keys}
    return [_without(item, keys) for item in value] if isinstance(value, list) else value


def _base_rows(run: TrainingRun, base: str, card: HubCard) -> list[tuple[str, str]]:
    model: BaseModelSpec = run.job.spec.model
    random = [("initialization", "random: the base gives the architecture only")] if model.initialization == "random" else []
    return [
        ("model", cell(base)),
        ("revision", f"`{run.model_revision}`"),
        ("licence", _licence_name(card)),
        ("architecture", cell(run.model_shape.architecture)),
        ("parameters", count(run.model_shape.parameters)),
        *random,
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A row of the table of data; `card` is what preparation found beside the data."""

    name: str
    revision: str
    split: str
    format: str
    weight: str
    limit: str
    licence: str
    link: str  # where it is to be found, at the commit that was read
    card: HubCard


def _sources(data: "ReportData") -> list[_Source]:
    sources = data.run.job.spec.dataset.sources
    # Preparation reads every training split first, in the order of the job.
    found = dict(enumerate(data.statistics.sources[: len(sources)]))
    return [_source(source, found.get(index)) for index, source in enumerate(sources)]


def _source(source: DataSource, found: "SourceStatistics | None") -> _Source:
    found = found if found is not None and found.name == source.path else None
    card, commit = (HubCard.from_json(found.card), found.commit or "") if found else (HubCard(), "")
    at, hub = f" at `{commit[:12]}`" if commit else "", is_hub_id(source.path)
    return _Source(
        name=_linked(source.path, "datasets/"),
        revision=f"{code(source.revision)}{at}" if hub else "local",
        split=source.split,
        format=source.format,
        weight=f"{source.weight:g}",
        limit=f"{source.limit:,}" if source.limit else "none",
        licence=_licence_name(card),
        link=f"{_HUB}/datasets/{source.path}{f'/tree/{commit}' if commit else ''}" if hub else "",
        card=card,
    )


def _licence_name(card: HubCard) -> str:
    """As its own card gives it; `other` by its name."""
    name = card.licence_name or ", ".join(card.licences)
    if not name:
        return UNKNOWN
    return f"[{plain(name)}](<{card.licence_link}>)" if re.fullmatch(r"https://[^\s<>]+", card.licence_link) else plain(name)


def _dropped(data: "ReportData") -> list[tuple[str, str, int]]:
    return [(shown(source.name), reason, number) for source in data.statistics.sources for reason, number in sorted(source.dropped.items())]


_TOKEN_ORDERS = {"blog": "system, assistant, user, end", "published": "system, user, assistant, end"}
_NAMES = {
    "model": "the chat template of the base model's tokenizer",
    "jinja": "a chat template that the job gives",
    "default": "a template of ours, with a short system sentence",
}
_LEARNT = {
    "assistant": "the assistant's text and its end token, nothing else",
    "last_assistant": "the last answer of each dialogue and its end token, nothing else",
    "all": "every token",
    "blog": "everything but user turns",
}


def _template_rows(run: TrainingRun, template: Template | None) -> list[tuple[str, str]]:
    """What the job asks for, and what the exported model has: `auto` and a tokenizer's own tokens are known there only."""
    spec = run.job.spec.template
    learnt = ("learnt", _LEARNT[spec.masking])
    if template is None:
        return [("name", f"`{spec.name}`"), learnt]
    chosen = f"`{template.name}`, by `auto`" if spec.name == "auto" else f"`{template.name}`"
    name = f"{chosen}: {_NAMES[template.name]}" if template.name in _NAMES else chosen
    return [("name", name), ("control tokens", _tokens(run, template)), learnt]


def _tokens(run: TrainingRun, template: Template) -> str:
    """Each token with its id. The order that a job names is that of new tokens: those that the base had keep theirs."""
    if not template.token_ids:
        return "none of ours; those that the template writes are the tokenizer's own" if template.name in ("model", "jinja") else "none"
    pairs = ", ".join(f"{code(token)} = {one}" for token, one in zip(template.new_tokens, template.token_ids, strict=True))
    new = set(run.vocabulary.new_token_ids) & set(template.token_ids)
    order = run.job.spec.template.token_order
    if len(new) == len(template.token_ids):
        named = "" if template.name == "chatml" else f", new to the tokenizer, in the order `{order}` ({_TOKEN_ORDERS[order]})"
        return f"{pairs}{named}"
    return f"{pairs}; {'all' if not new else 'those that are not new'} with the ids that they had in the base model's tokenizer"


_OPTIMIZERS: Final = {"adamw": "AdamW", "adamw8bit": "AdamW with moments in 8 bits (bitsandbytes)"}


def _training_rows(run: TrainingRun) -> Iterable[tuple[str, object]]:
    training, plan = run.job.spec.training, run.plan
    optimizer = training.optimizer
    length = f"{training.max_steps} steps" if training.max_steps else f"{training.effective_epochs} epochs"
    warmup = UNKNOWN if plan.warmup_steps is None else plan.warmup_steps
    return [
        ("method", f"{training.method}, {engine_text(engine_name(training, plan.world_size))}"),
        *_adapter_rows(training),
        ("length", f"{length}, {plan.total_steps or UNKNOWN} steps"),
        ("rows per step", f"{plan.global_batch_size} packed rows of {training.max_sequence_length} tokens"),
        ("batch", f"{plan.world_size} workers x {plan.micro_batch_size} rows x {plan.micro_steps} micro-steps"),
        ("optimizer", f"{_OPTIMIZERS[optimizer.name]}, beta {optimizer.beta1:g} and {optimizer.beta2:g}, epsilon {optimizer.epsilon:g}"),
        (
            "learning rate",
            f"{training.effective_learning_rate:g}, {optimizer.schedule}, {warmup} warm-up steps",
        ),
        ("weight decay", f"{optimizer.weight_decay:g}"),
        ("gradient clipping", f"{optimizer.gradient_clipping:g}"),
        ("precision", f"{plan.precision}, fp32 master weights"),
        ("dropout", f"{training.dropout:g}"),
        ("attention dropout", f"{training.attention_dropout:g}"),
        ("seed", training.seed),
    ]


def _adapter_rows(training: Training) -> list[tuple[str, object]]:
    """What a LoRA run trains."""
    lora = training.adapter
    if lora is None:
        return []
    kind = "DoRA" if lora.use_dora else "LoRA"
    scale = "alpha / sqrt(rank)" if lora.use_rslora else "alpha / rank"
    where = ", ".join(lora.target_modules)
    told = f"{kind}, rank {lora.r}, alpha {lora.lora_alpha} (scale {scale}), dropout {lora.lora_dropout:g}, on {where}"
    saved = f"; in full: {', '.join(lora.modules_to_save)}" if lora.modules_to_save else ""
    rows: list[tuple[str, object]] = [("adapters", f"{told}{saved}; and rows of new control tokens")]
    if training.method == "qlora":
        rows.append(("base", "layers in 4 bits (NF4, quantised twice); the whole model has the values that these stand for"))
    return rows


def _hardware_rows(data: "ReportData", hardware: str) -> list[tuple[str, str]]:
    plan = data.run.plan
    seconds = data.seconds_in_steps
    what = hardware or plan.accelerator or (UNKNOWN if plan.device == "gpu" else "CPU")
    hours = f"{seconds * plan.world_size / 3600:.2f}" if data.steps else UNKNOWN
    pace = f"{data.tokens / seconds:,.0f}" if seconds else UNKNOWN
    return [
        ("hardware", what),
        ("workers", f"{plan.world_size} on {plan.nodes} machine{'s' if plan.nodes > 1 else ''}"),
        ("training time", duration(seconds) if data.steps else UNKNOWN),
        (f"{plan.device.upper()} hours", f"{hours} (training steps only)"),
        ("tokens per second", pace),
        ("versions", ", ".join(f"{name} {version}" for name, version in data.versions.items()) or UNKNOWN),
    ]


def _evaluation(summary: EvaluationSummary | None) -> dict[str, Any] | None:
    """Tables, sentences and samples; None when nothing was evaluated."""
    if summary is None:
        return None
    found = benchmarks(summary)
    return {
        "rows": found.rows[:MOST_TASKS],
        "left_out": len(found.rows[MOST_TASKS:]) + len(found.members),
        "judge": summary.judge,
        "verdict": verdict_of(summary.judge) if summary.judge else "",
        "samples": card_samples(summary),
        "more_samples": len(summary.samples) > len(card_samples(summary)),
        "notes": summary.notes,
    }


def _licence_text(card: HubCard, run: TrainingRun, sources: Sequence[_Source]) -> str:
    base = _linked(run.job.spec.model.name)
    if not card.licences and not card.licence_name:
        text = f"The licence of {base} is unknown to this card. It binds these weights too, which derive from it: look it up before use."
    else:
        text = f"Inherited from {base}: {_licence_name(card)}."
    unknown = list(dict.fromkeys(source.name for source in sources if source.licence == UNKNOWN))
    text += " The licences of the data above apply as well" + (f"; unknown to this card: {', '.join(unknown)}." if unknown else ".")
    if "rail" in " ".join((*card.licences, card.licence_name)).lower():
        text += " Its use restrictions travel with the weights: whoever passes them on must pass the restrictions on too."
    return text


def _citations(run: TrainingRun, card: HubCard, sources: Sequence[_Source]) -> list[tuple[str, str]]:
    """(what and where, BibTeX as its authors wrote it or nothing) of the base model, and of data that others can find."""
    model = run.job.spec.model.name
    base = f"Base model: {_linked(model)}" + (f", <{_HUB}/{model}/tree/{run.model_revision}>" if is_hub_id(model) else "")
    found = [source for source in sources if source.link or source.card.citation]
    data = {f"Data: {source.name}" + (f", <{source.link}>" if source.link else ""): source.card for source in found}
    return [(what, fenced(one.citation, "bibtex") if one.citation else "") for what, one in ((base, card), *data.items())]

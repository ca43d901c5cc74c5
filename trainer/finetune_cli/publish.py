"""`finetune publish`: send the exported model of a run to the Hub or to a directory, again or for the first time."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from finetune_cli.environment_storage import endpoint_of_environment
from finetune_cli.export import frozen_run, origin, progress_bar

if TYPE_CHECKING:
    from finetune_api.finetunejob import FineTuneJob, HubPublication, Publish, StoragePublication
    from finetune_api.training_run import TrainingRun
    from finetune_trainer.publishing.changes import Publication
    from finetune_trainer.publishing.place import Place
    from finetune_trainer.run_folder import RunFolder

    Checked = TypeVar("Checked", HubPublication, StoragePublication)


def publish(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder, for example runs/tiny; its model/ is published, or its adapter/.")
    ],
    hub: Annotated[str | None, typer.Option("--hub", metavar="ORG/NAME", help="Hub repository; created when absent.")] = None,
    directory: Annotated[Path | None, typer.Option("--directory", metavar="DIR", help="Directory instead of the Hub.")] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", metavar="URL", help="Prefix in object storage instead: s3://bucket/prefix, gs:// or az://.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="BRANCH", help="Branch on the Hub; created when absent.", show_default="main")
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", metavar="NAME", help="Tag of the commit on the Hub, for example v1.0.")] = None,
    message: Annotated[str | None, typer.Option("--message", metavar="TEXT", help="Commit message; absent names job and step.")] = None,
    public: Annotated[bool, typer.Option("--public", help="The world may have it: a repository that is created is public.")] = False,
    base: Annotated[
        Path | None, typer.Option("--base", metavar="DIR", help="Where relative paths of the job begin, if its file has moved.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Publish what spec.publish.gate of the job refuses.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Publish the exported model of a run: where its job says, if it passes the job's gate, or where the options say.

    What is there already is not sent again. The token comes from the job's Secret, HF_TOKEN, or `hf auth login`.
    """
    frozen, folder = frozen_run(run)
    asked = {"revision": revision, "tag": tag, "message": message, "private": False if public else None}
    place = _place(frozen.job.spec.publish, hub, directory, storage, {name: value for name, value in asked.items() if value is not None})
    if not (force or hub or directory or storage):
        _check_gate(frozen, folder)
    published = _publish(folder.published(frozen.job), place, frozen.job, origin(folder, base))
    if as_json:
        print(json.dumps(_described(published)))
        return
    print(f"published to {published.url} at {published.revision[:12]}: {len(published.sent)} files sent, {len(published.deleted)} deleted")
    if published.kept:
        print(f"kept as edited there: {', '.join(published.kept)}; delete it there to get ours with the next publication")


def _check_gate(run: "TrainingRun", folder: "RunFolder") -> None:
    """The job's condition for its own place, by what was measured at the exported step. Raises PublicationFailed."""
    from finetune_api.errors import PublicationFailed
    from finetune_trainer.publishing.changes import refused_by_gate
    from finetune_trainer.publishing.model_folder import read_exported
    from finetune_trainer.reporting.events import EvaluationDone
    from finetune_trainer.reporting.metrics import read_metrics

    step = read_exported(folder.published(run.job)).step
    losses = [event.loss for event in read_metrics(folder.metrics) if isinstance(event, EvaluationDone) and event.step == step]
    if refusal := refused_by_gate(run.job.spec.publish.gate, losses[-1] if losses else None, step, folder.summary(run)):
        raise PublicationFailed(
            f"not published: {refusal}; the model is kept in {folder.published(run.job)}. "
            "Export a better step with `finetune export`, or use --force"
        )


def _place(spec: "Publish", hub: str | None, directory: Path | None, storage: str | None, asked: dict[str, object]) -> "Place":
    """Where to publish: options win over the job. `asked` are fields for the Hub. Raises InvalidPublication."""
    from finetune_api.errors import InvalidPublication
    from finetune_api.finetunejob import DirectoryPublication, HubPublication, StoragePublication
    from finetune_api.finetunejob.places import is_like_an_address

    if sum(place is not None for place in (hub, directory, storage)) > 1:
        raise InvalidPublication("--hub, --directory and --storage exclude each other; give one")
    if asked and not hub and (directory or storage or spec.hub is None):
        raise InvalidPublication("--revision, --tag, --message and --public are for the Hub; add --hub ORG/NAME")
    if directory and is_like_an_address(str(directory)):
        raise InvalidPublication(f"--directory {directory} is an address, and no folder; use --storage for object storage")
    if directory:
        return DirectoryPublication(path=str(directory.expanduser().resolve()))
    if storage and "://" not in storage:
        raise InvalidPublication(f"--storage {storage} is no address; use s3://bucket/prefix, gs:// or az://, or --directory DIR")
    if storage:
        settings: dict[str, object] = spec.storage.model_dump() if spec.storage else {"endpoint": endpoint_of_environment(storage)}
        return _checked(StoragePublication, settings | {"path": storage}, f"--storage {storage}")
    if hub and "/" not in hub:
        raise InvalidPublication(f"--hub {hub}: names no organisation or user; use org/name, for example ann/{hub}")
    if hub or (asked and spec.hub is not None):
        fields = (spec.hub.model_dump() if spec.hub else {}) | asked | ({"repository": hub} if hub else {})
        return _checked(HubPublication, fields, f"--hub {hub}" if hub else "spec.publish.hub")
    if spec.place is None:
        raise InvalidPublication("the job names no place to publish to; give --hub ORG/NAME, --storage URL or --directory DIR")
    return spec.place


def _checked(kind: "type[Checked]", fields: dict[str, object], what: str) -> "Checked":
    """The place with these fields. Raises InvalidPublication."""
    from pydantic import ValidationError

    from finetune_api.errors import InvalidPublication
    from finetune_api.spec_problems import by_field, problem

    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = problem(by_field(error.errors(include_url=False)[0])[0], kind)
        raise InvalidPublication(f"{what}: {first}") from None


def _publish(model: Path, place: "Place", job: "FineTuneJob", base: Path) -> "Publication":
    from finetune_trainer.publishing.place import publish_to
    from finetune_trainer.secrets import Secrets

    with progress_bar("publish") as progress:
        return publish_to(place, model, job=job, base=base, secrets=Secrets(), progress=progress)


def _described(published: "Publication") -> dict[str, object]:
    return {
        "repository": published.repository,
        "revision": published.revision,
        "url": published.url,
        "sent": list(published.sent),
        "sentBytes": published.sent_bytes,
        "deleted": list(published.deleted),
        "kept": list(published.kept),
        "created": published.created,
    }

"""The exported model sent where the job says, unless a gate closes."""

from finetune_api.training_run import TrainingRun
from finetune_trainer.publishing.changes import GateClosed, refused_by_gate
from finetune_trainer.publishing.place import publish_to
from finetune_trainer.reporting.events import Published, Sink, StageAdvanced, StageStarted
from finetune_trainer.stages.export import Exported
from finetune_trainer.stages.local_run import LocalRun


def publish_model(local: LocalRun, run: TrainingRun, exported: Exported, sink: Sink) -> Published | None:
    """Send the exported model where the job says, unless a gate closes."""
    publish = local.job.spec.publish
    if publish.place is None:
        return None
    if refusal := refused_by_gate(publish.gate, exported.loss, exported.step, local.folder.summary(run)):
        raise GateClosed(
            f"not published: {refusal}; the model is kept in {local.folder.model}. "
            "Ease the gate, or train longer in a new run (--run-folder)"
        )
    sink.record(StageStarted(stage="publication", unit="bytes"))
    done = publish_to(
        publish.place,
        local.folder.published(local.job),
        job=local.job,
        base=local.base,
        secrets=local.secrets,
        progress=lambda sent, total: sink.record(StageAdvanced(stage="publication", done=sent, detail=f"of {total:,} bytes")),
    )
    published = Published(where=done.repository, revision=done.revision)
    sink.record(published)
    return published

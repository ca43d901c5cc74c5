"""A LoRA run's checkpoint as a folder of PEFT: adapters alone, for whoever has the base model.

In: a frozen run, the adapters of one step, the base model's folder (its weights are not read). Out: adapter_config.json, which names the
base model and its commit, adapter_model.safetensors in the arithmetic of the run, tokenizer, and dialogue_template.json. The folder
appears whole or not at all; the card comes afterwards, by `export.describe`. Memory: the adapters.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finetune_api.errors import StorageFailed
from finetune_api.training_run import TrainingRun
from finetune_trainer.model.merged import adapted_model, check_same_shapes
from finetune_trainer.model.precision import DTYPE_NAMES
from finetune_trainer.publishing.export import WRITTEN_DTYPES, check_target, shared_files
from finetune_trainer.publishing.model_folder import RECORD_NAME, ExportRecord, digest_of_file, folder_files, folder_put_in_place
from finetune_trainer.publishing.public_names import is_on_hub, loadable
from finetune_trainer.templates.registry import add_control_tokens, template_from_spec
from finetune_trainer.templates.tokenizer import read_tokenizer

if TYPE_CHECKING:
    from finetune_trainer.publishing.export import Weights

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"


def export_adapter(run: TrainingRun, adapters: "Weights", *, step: int, base: Path, folder: Path) -> ExportRecord:
    """Write the adapters to `folder`, replacing an earlier export there. Raises as `export.export` does."""
    from safetensors.torch import save_file

    check_target(folder, run)
    adapted = adapted_model(run, base, reads=False)
    tensors = _tensors(adapted, run, adapters)
    files = read_tokenizer(base)
    template = add_control_tokens(files.tokenizer, template_from_spec(run.job.spec.template, files))
    try:
        with folder_put_in_place(folder) as new:
            for name, text in {CONFIG: _config(adapted, run), **shared_files(base, files, template)}.items():
                (new / name).write_text(text, encoding="utf-8")
            save_file(tensors, new / WEIGHTS, metadata={"format": "pt"})
            digests = {name: digest_of_file(new / name) for name in folder_files(new)}
            record = ExportRecord(
                job=run.job.metadata.name, identity=run.identity, step=step, dtype=WRITTEN_DTYPES[run.plan.precision], files=digests
            )
            (new / RECORD_NAME).write_text(record.to_json())
    except OSError as error:
        raise StorageFailed(
            f"the adapters can't be exported to {folder}: {error.strerror or error}; make room and run `finetune export`"
        ) from error
    return record


def _tensors(adapted: Any, run: TrainingRun, adapters: "Weights") -> dict[str, Any]:
    """The adapters under PEFT's names."""
    import torch
    from peft import get_peft_model_state_dict

    shapes = {name: tuple(one.shape) for name, one in adapted.get_base_model().named_parameters() if one.requires_grad}
    check_same_shapes(shapes, adapters.shapes)
    dtype = getattr(torch, DTYPE_NAMES[run.plan.precision])
    values = {
        f"base_model.model.{name}": torch.tensor(adapters.read(name, 0, math.prod(shape))).view(shape).to(dtype)
        for name, shape in shapes.items()
    }
    return dict(sorted(get_peft_model_state_dict(adapted, state_dict=values, save_embedding_layers=False).items()))


def _config(adapted: Any, run: TrainingRun) -> str:
    """PEFT's own, with where the base model is, without a path of this machine; in one order, so that publishing twice makes one commit."""
    model = run.job.spec.model
    config = adapted.peft_config[adapted.active_adapter]
    config.inference_mode = True
    config.base_model_name_or_path = loadable(model.name)
    # Of a folder or an address a run knows a digest, which is no revision that Transformers could look for.
    config.revision = run.model_revision if is_on_hub(model.name) else None
    values = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    return json.dumps(values, indent=2, sort_keys=True, default=str) + "\n"

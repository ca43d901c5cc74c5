"""What this machine is: CPUs, memory, GPUs, and the versions of what runs on it. Facts for the plan, the report and the card."""

import os
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from finetune_api.accelerators import accelerator
from finetune_api.finetunejob import FineTuneJob, Workers
from finetune_api.plan import Machine
from finetune_trainer.model.precision import cpu_flags, resolve_precision

_LIBRARIES = ("finetune-operator", "torch", "transformers", "peft", "bitsandbytes", "deepspeed", "ray", "tokenizers", "safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class ThisMachine(Machine):
    """The plan's machine, with the CPUs that this process may use."""

    cpus: int


@cache
def this_machine() -> ThisMachine:
    """Asks the system and the NVIDIA driver, not torch: it must be known before anything heavy is imported."""
    gpus = _gpus()
    return ThisMachine(
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        gpus=len(gpus),
        gpu_memory_bytes=min((memory for _, memory in gpus), default=None),
        accelerator=gpus[0][0] if gpus and accelerator(gpus[0][0]) else None,
        fast_bf16=None if gpus else resolve_precision("auto", gpu_bf16=None, cpu_flags=cpu_flags()) == "bf16",
        cpus=len(os.sched_getaffinity(0)),
    )


def with_workers_of(machine: ThisMachine, job: FineTuneJob) -> FineTuneJob:
    """The job, with workers as `machine` has them where it says nothing of workers: one a GPU, else one that uses all CPUs."""
    if "workers" in job.spec.model_fields_set:
        return job
    on_cpus = Workers(device="cpu", gpus_per_node=0, workers_per_node=1)
    workers = Workers(device="gpu", gpus_per_node=machine.gpus) if machine.gpus else on_cpus
    return job.model_copy(update={"spec": job.spec.model_copy(update={"workers": workers})})


def hardware_text() -> str:
    """One line for the card: the GPUs, or the CPUs."""
    machine, gpus = this_machine(), _gpus()
    if gpus:
        return f"{len(gpus)} x {gpus[0][0]}"
    return f"{machine.cpus} CPU cores, {(machine.memory_bytes or 0) / 2**30:.0f} GiB"


def library_versions() -> dict[str, str]:
    """Version by distribution, of those that are installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def _gpus() -> tuple[tuple[str, int], ...]:
    """(name, bytes of memory) of each GPU that the NVIDIA driver shows to this process; none without a driver."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return ()
    pairs = (line.rsplit(",", 1) for line in lines if "," in line)
    return tuple((name.strip(), int(mebibytes) * 2**20) for name, mebibytes in pairs)

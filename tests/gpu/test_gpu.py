"""The program of `make test-gpu` itself, on the CPU in place of the GPU: it finds nothing wrong there, and what is wrong it finds."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.document import gpu_section
from tests.conftest import ROOT
from tests.gpu import checks, pace, page, saved, speed, startup
from tests.gpu.measure import Check, Measure
from tests.gpu.training import Sizes

from finetune_trainer.training import plain_engine, startup_check
from finetune_trainer.training.snapshot import HostSnapshot

CPU = torch.device("cpu")
SMALL = Sizes(layers=2, width=48, heads=4, words=97, row=128, steps=2, lengths=(40, 1, 30), supervised=50, vocabulary=301)


@pytest.mark.parametrize(
    "check",
    [pytest.param(check, id=check.__name__, marks=pytest.mark.thorough if check is startup.pairs else ()) for check in checks.CHECKS],
)
def test_a_cpu_agrees_with_itself(check: Check) -> None:
    found = list(check(CPU, SMALL))
    assert found
    assert [one for one in found if not one.good] == []


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device alone, that is in bf16 and fp32: the reference computes in fp64."""
    right = torch.nn.functional.scaled_dot_product_attention

    def wrong(query: torch.Tensor, *states: torch.Tensor, **named: object) -> torch.Tensor:
        return right(query * (1.0 if query.dtype == torch.float64 else 1.1), *states, **named)

    monkeypatch.setattr("finetune_trainer.model.attention.scaled_dot_product_attention", wrong)
    found = list(checks.attention(CPU, SMALL))
    assert [one.name for one in found if one.good] == [found[-1].name], "only isolation is still right"


def test_a_leak_between_dialogues_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def across(
        module: object, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: None, **named: object
    ) -> tuple[torch.Tensor]:
        return (torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True).transpose(1, 2),)

    monkeypatch.setattr(checks, "packed_attention", across)
    assert not checks._isolation(CPU, SMALL).good


def test_a_wait_in_each_micro_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_engine, "seed_dropout", lambda seed, step, index: torch.ones(()).item())
    assert [one.error for one in pace.host_syncs(CPU, SMALL)] == [1, 4]


def test_a_checkpoint_without_a_copy_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HostSnapshot, "_copied", lambda self, piece: piece)
    assert not any(one.good for one in saved.overlapped(CPU, SMALL))


def test_a_device_that_multiplies_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = startup_check._product

    def wrong(left: torch.Tensor, *others: torch.Tensor) -> None:
        right(left, *others)
        others[-1][3, 5] += 1

    monkeypatch.setattr(startup_check, "_product", wrong)
    assert not any(one.good for one in startup.products(CPU, SMALL))


def test_a_check_that_breaks_is_a_line_of_the_table_and_the_others_go_on() -> None:
    def broken(device: torch.device, sizes: Sizes) -> list[Measure]:
        raise RuntimeError("no kernel image is available for execution on the device\nCUDA error ...")

    found = page.measured(CPU, SMALL, (broken, checks.loss))
    text = page.page(CPU, found, "")
    assert "| broken ended with RuntimeError: no kernel image is available for execution on the device |  |  | 0e+00 | **no** |" in text
    assert f"**1 of {len(found)} measures are not.**" in text
    assert len(found) > 1


def test_the_page_names_versions_errors_and_speed() -> None:
    found = [Measure(name="a", error=0.001, tolerance=0.01, path="varlen")]
    text = page.page(CPU, found, page.speeds(CPU, SMALL, steps=1))
    assert f"| torch | {torch.__version__.split('+')[0]}" in text
    assert "All 1 measures are within their tolerances." in text
    assert "| a | varlen | 1.0e-03 | 1e-02 | yes |" in text
    assert "| this trainer's engine | " in text
    assert "| plain Transformers, padded batches | " in text
    assert "Error:" not in text
    assert "GiB for the first" in text


def test_the_page_names_the_copy_of_a_checkpoint() -> None:
    told = page.copies(CPU, SMALL)
    assert told.startswith("The copy for a checkpoint, 0.0 GiB of masters and moments: ")
    found = saved.copied(CPU, SMALL)
    assert found.nbytes > 0
    assert 0 < found.asking < found.whole


def test_mfu_is_told_as_a_run_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """That counts the head for all tokens, and all of what attention looks at: at most a third more, with a model of this kind."""
    monkeypatch.setattr(page, "peak_flops", lambda device: 1e12)
    found = speed.measured("ours", speed.ours, SMALL, CPU, steps=1)
    mfu, reported = (float(cell.rstrip("%")) for cell in page._speed_row(found, SMALL, CPU)[2:4])
    assert page.reported_mfu(SMALL, found, 1e12) == pytest.approx(reported / 100, abs=1e-3)
    assert mfu <= reported


def test_plain_transformers_learn_the_same_dialogues() -> None:
    """The same weights and rows: the same loss, but for rounding to bf16."""
    ours, plain = (speed.measured("", make, SMALL, CPU, steps=1) for make in (speed.ours, speed.plain_transformers))
    assert ours.last_loss == pytest.approx(plain.last_loss, rel=2e-2)
    assert (ours.tokens, ours.flops) == (plain.tokens, plain.flops)
    assert speed.parameters(SMALL) == pytest.approx(sum(one.numel() for one in speed.random_model(SMALL, 0).parameters()), rel=0.05)


NEEDLESS = (
    "pydantic",
    "ray",
    "deepspeed",
    "peft",
    "bitsandbytes",
    "boto3",
    "botocore",
    "datasets",
    "obstore",
    "tensorboard",
    "bs4",
    "markdownify",
)


def test_it_needs_torch_transformers_and_numpy_only() -> None:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({NEEDLESS}))"
    code = f"{blocked}; import tests.gpu.page; import runpy; runpy.run_module('tests.gpu', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0, done.stderr
    assert "no GPU here" in done.stdout


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'trainer'}", "PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}


def test_the_documents_section_is_what_was_kept_of_a_run() -> None:
    assert f"\n{gpu_section()}\n\n## Not measured" in (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")


def test_without_a_gpu_it_says_so_and_ends_well() -> None:
    done = subprocess.run(
        ["make", "test-gpu", f"PYTHON={sys.executable}"], cwd=ROOT, capture_output=True, text=True, check=False, env=_environment()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"no GPU here: torch {torch.__version__} finds none, nothing was checked\nit would compare attention,")


def test_a_python_without_torch_is_told(tmp_path: Path) -> None:
    """Without torch and without a GPU too it ends well."""
    code = "import sys; sys.modules['torch'] = None; import runpy; runpy.run_module('tests.gpu', run_name='__main__')"
    environment = {**_environment(), "PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0
    assert "no GPU here, nothing was checked" in done.stdout
    assert "has no torch; give a Python that has torch and transformers: make test-gpu PYTHON=..." in done.stdout
    smi = tmp_path / "nvidia-smi"
    smi.touch(mode=0o755)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1

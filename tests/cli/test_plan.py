import json
from pathlib import Path

import pytest
import yaml
from tests.api.jobs import STARCODERBASE, data_shape, job, mapping

from finetune_api.plan import plan
from finetune_api.training_run import TrainingRun, Vocabulary, run_identity
from finetune_cli.app import main
from finetune_trainer.machine import this_machine
from finetune_trainer.reporting.events import StepDone, to_json

TINY_CONFIG = {
    "architectures": ["GPTBigCodeForCausalLM"], "n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 256, "vocab_size": 512,
}  # fmt: skip
CPU = {"gpusPerNode": 0, "workersPerNode": 2, "accelerator": None}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a job on the recipe's shape."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "job.yaml", model={"shape": STARCODERBASE.model_dump(by_alias=True)})
    return tmp_path


def write(path: Path, **spec):
    path.write_text(yaml.safe_dump(mapping(**spec)))


def planned(capsys, *arguments):
    assert main(["plan", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_is_the_plan(folder, capsys):
    found = planned(capsys, "job.yaml", "--tokens", "7440000", "--price", "2")
    assert (found["worldSize"], found["microSteps"], found["totalSteps"], found["job"]) == (8, 8, 87, "job")
    assert found["cost"] == pytest.approx(2 * found["gpuHours"])
    assert [term["name"] for term in found["memory"]["terms"]][:2] == ["weights, partitioned", "gradients, partitioned"]


def test_overrides_change_the_plan(folder, capsys):
    assert planned(capsys, "job.yaml", "--set", "workers.nodes=2", "--set", "training.maxSteps=7")["totalSteps"] == 7


def test_text_names_every_number(folder, capsys):
    assert main(["plan", "job.yaml", "--tokens", "7440000"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "256 = 4 a micro-step x 8 workers x 8 micro-steps",
        "29 = ceil(7,266 rows / 256)",
        "87 in 3 epochs",
        "15,517,456,384 parameters",
        "8 bytes x P 15,517,456,384 / n 8",
        "of 80.0 GiB that it has",
        "an assumption until the data is prepared",
    ):
        assert words in text, words


def test_one_epoch_is_no_epochs(folder, capsys):
    assert main(["plan", "job.yaml", "--tokens", "7440000", "--set", "training.epochs=1"]) == 0
    assert "29 in 1 epoch " in " ".join(capsys.readouterr().out.split())


def test_text_says_what_is_unknown_and_why(folder, capsys):
    assert main(["plan", "job.yaml"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "steps and time the data is not prepared yet; preparation counts its rows" in text
    assert "GPU hours unknown" in text


def test_a_job_that_cannot_run_ends_with_two(folder, capsys):
    assert main(["plan", "job.yaml", "--set", "training.globalBatchSize=100"]) == 2
    assert "100 is not a multiple of microBatchSize*worldSize=32; use 96 or 128" in " ".join(capsys.readouterr().err.split())


def test_a_local_model_gives_its_own_shape(folder, capsys):
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(TINY_CONFIG))
    write(folder / "local.yaml", model={"name": "./model"}, workers=CPU, training={"maxSequenceLength": 128})
    parameters = (512 + 256) * 64 + layers() + 2 * 64
    assert planned(capsys, "local.yaml")["checkpointBytes"] == 12 * parameters


def layers() -> int:
    """Parameters of the tiny model's two layers: attention with one key head, feed-forward, norms."""
    attention = 64 * (64 + 32) + 96 + 64 * 64 + 64
    return 2 * (attention + 2 * 64 * 256 + 256 + 64 + 4 * 64)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_config_is_named(folder, capsys, content):
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(content)
    write(folder / "local.yaml", model={"name": "./model"})
    assert main(["plan", "local.yaml"]) == 2
    assert "model/config.json" in "".join(capsys.readouterr().err.split())


def hub_job(folder, name):
    write(folder / "hub.yaml", model={"name": name, "revision": "main"}, training={"maxSequenceLength": 256})


def test_a_model_of_the_hub_is_planned_by_its_config_json(folder, capsys, hub):
    """Nothing else of it is read."""
    hub.create("org/tiny", {"config.json": json.dumps(TINY_CONFIG).encode(), "model.safetensors": b"not read"})
    hub_job(folder, "org/tiny")
    found = planned(capsys, "hub.yaml")
    assert found["memory"]["totalBytes"] > 0
    assert "memory" not in [unknown["name"] for unknown in found["unknown"]]
    assert not hub.asked("model.safetensors")


def test_a_model_of_the_hub_is_planned_without_a_network_once_it_was_read(folder, capsys, hub):
    hub.create("org/tiny", {"config.json": json.dumps(TINY_CONFIG).encode()})
    hub_job(folder, "org/tiny")
    before = planned(capsys, "hub.yaml")
    hub.close()
    assert planned(capsys, "hub.yaml") == before


def test_a_hub_that_is_away_is_told_and_nothing_fails(folder, capsys, hub):
    hub.close()
    hub_job(folder, "org/tiny")
    found = planned(capsys, "hub.yaml")
    assert "memory" in [unknown["name"] for unknown in found["unknown"]]
    assert found["notes"][-1].startswith("Its config.json is not read, so memory and time are unknown: model org/tiny: can't be fetched")


def test_a_model_that_this_machine_may_not_read_is_told_and_nothing_fails(folder, capsys, hub):
    """The cluster may have the token."""
    write(folder / "hub.yaml", model={"name": "ann/private", "tokenSecret": {"name": "hub"}})
    assert "no such model on the Hub, or it is private" in planned(capsys, "hub.yaml")["notes"][-1]


def test_a_model_of_the_hub_that_is_no_language_model_is_refused(folder, capsys, hub):
    hub.create("org/t5", {"config.json": json.dumps({"architectures": ["T5ForConditionalGeneration"]}).encode()})
    hub_job(folder, "org/t5")
    assert main(["plan", "hub.yaml"]) == 2
    assert "T5ForConditionalGeneration" in capsys.readouterr().err


def test_a_shape_that_the_job_gives_needs_no_hub(folder, capsys, hub):
    assert planned(capsys, "job.yaml")["memory"]["totalBytes"] > 0
    assert not hub.asked("config.json")


def test_pods_that_are_too_small_for_cpu_workers_are_told_beside_the_plan(folder, capsys):
    shape = STARCODERBASE.model_dump(by_alias=True)
    write(folder / "pods.yaml", model={"shape": shape}, workers={**CPU, "resources": {"limits": {"memory": "8Gi"}}})
    refused = planned(capsys, "pods.yaml")["clusterRefuses"]
    assert any("its pod's 8.0 GiB (workers.resources.limits.memory)" in problem["message"] for problem in refused)


def test_an_earlier_run_of_the_same_job_tells_its_data(folder, capsys):
    wanted = job()
    data = data_shape(rows=512)
    run = TrainingRun(
        job=wanted,
        identity=run_identity(wanted),
        model_revision="c0ffee",
        model_shape=STARCODERBASE,
        vocabulary=Vocabulary(size=49156),
        data=data,
        plan=plan(wanted, STARCODERBASE, data),
    )
    (folder / "runs" / "job").mkdir(parents=True)
    (folder / "runs" / "job" / "run.json").write_text(run.to_json())
    assert planned(capsys, "job.yaml")["rowsPerEpoch"] == 512
    assert planned(capsys, "job.yaml", "--set", "training.seed=7")["rowsPerEpoch"] is None


def test_what_only_a_cluster_refuses_is_told_and_nothing_fails(folder, capsys):
    words = (
        "spec.checkpoints.storage is missing, and a pod's own disk goes with the pod; set it to s3://bucket/prefix, or a path on a volume"
    )
    assert main(["plan", "job.yaml"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"On a cluster the operator refuses it (`finetune run` doesn't) {words}" in text
    (refused,) = planned(capsys, "job.yaml")["clusterRefuses"]
    assert refused["field"] == "spec.checkpoints.storage"
    assert words == "{field} {message}; {remedy}".format(**refused)


def test_a_file_for_a_cluster_or_for_this_machine_is_told_of_no_refusal(folder, capsys):
    stored = ["--set", "checkpoints.storage=s3://bucket/prefix"]
    assert planned(capsys, "job.yaml", *stored)["clusterRefuses"] == []
    assert planned(capsys, "job.yaml", "--here")["clusterRefuses"] == []
    for arguments in (stored, ["--here"]):
        assert main(["plan", "job.yaml", *arguments]) == 0
        assert "refuses" not in capsys.readouterr().out


def test_here_a_job_without_workers_gets_those_of_this_machine(folder, capsys):
    bare = mapping(model={"shape": {**STARCODERBASE.model_dump(by_alias=True), "layers": 2, "parameters": 150_000}})
    del bare["spec"]["workers"]
    (folder / "bare.yaml").write_text(yaml.safe_dump(bare))
    gpus = this_machine().gpus
    found = planned(capsys, "bare.yaml", "--here")
    assert (found["device"], found["worldSize"]) == (("gpu", gpus) if gpus else ("cpu", 1))
    assert planned(capsys, "bare.yaml")["worldSize"] == 8


def test_this_machine_is_compared_when_asked(folder, capsys):
    write(folder / "cpu.yaml", model={"shape": STARCODERBASE.model_dump(by_alias=True)}, workers={**CPU, "workersPerNode": 64})
    assert planned(capsys, "cpu.yaml")["memory"]["capacityBytes"] is None
    write(folder / "huge.yaml", model={"shape": {**STARCODERBASE.model_dump(by_alias=True), "parameters": 10**15}}, workers=CPU)
    assert main(["plan", "huge.yaml", "--here"]) == 2
    assert "its share of this machine's" in " ".join(capsys.readouterr().err.split())


def test_a_price_table_gives_the_cost_of_the_jobs_gpu(folder, capsys):
    (folder / "prices.yaml").write_text("a100-80gb: 2.5\nnvidia-h100-80gb: 4\n")
    found = planned(capsys, "job.yaml", "--tokens", "7440000", "--prices", "prices.yaml")
    assert found["cost"] == pytest.approx(2.5 * found["gpuHours"])
    assert found["bestGpuHours"] < found["gpuHours"]
    assert planned(capsys, "job.yaml", "--prices", "prices.yaml", "--set", "workers.accelerator=nvidia-b200")["cost"] is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--prices", "gone.yaml"], "--prices gone.yaml: can't be read"),
        (["--prices", "prices.yaml"], "prices.yaml: nvidia-a100-80g: is not a GPU model that we know; did you mean nvidia-a100-80gb?"),
        (["--prices", "prices.yaml", "--price", "2"], "--price and --prices both say what a GPU hour costs"),
        (["--calibrate", "gone"], "--calibrate gone: there is no such folder"),
        (["--calibrate", "runs"], "--calibrate runs: there are runs none of which a step was measured"),
    ],
)
def test_wrong_options_are_named(folder, capsys, arguments, told):
    (folder / "prices.yaml").write_text("nvidia-a100-80g: 2.5\n")
    (folder / "runs").mkdir()
    assert main(["plan", "job.yaml", *arguments]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_the_network_between_nodes_may_be_given(folder, capsys):
    two = ["job.yaml", "--tokens", "7440000", "--set", "workers.nodes=2"]
    slow, fast = planned(capsys, *two, "--network", "50"), planned(capsys, *two, "--network", "3200")
    assert slow["seconds"] > 1.5 * fast["seconds"]


def test_text_tells_a_steps_time_term_by_term(folder, capsys):
    assert main(["plan", "job.yaml", "--tokens", "7440000", "--price", "2"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "Time of a step, at the slow end",
        "matrix products",
        "communication, not hidden",
        "% of the peak",
        "until the first step",
    ):
        assert words in text, words


def test_layouts_are_ranked_and_each_is_yaml_to_paste(folder, capsys):
    found = planned(capsys, "job.yaml", "--tokens", "7440000", "--explore", "--price", "2")
    times = [layout["plan"]["timing"]["heldSeconds"] for layout in found["layouts"]]
    assert times == sorted(times)
    assert all(layout["cost"] == pytest.approx(2 * layout["plan"]["gpuHours"]) for layout in found["layouts"])
    assert main(["plan", "job.yaml", "--tokens", "7440000", "--explore", "--price", "2"]) == 0
    text = capsys.readouterr().out
    block = text.split("Of the fewest GPU hours with method: full:\n", 1)[1].split("note", 1)[0]
    write(folder / "pasted.yaml", model={"shape": STARCODERBASE.model_dump(by_alias=True)}, **yaml.safe_load(block))
    assert planned(capsys, "pasted.yaml", "--tokens", "7440000")["totalSteps"] == 87


def test_no_layout_fits_and_why(folder, capsys):
    huge = {**STARCODERBASE.model_dump(by_alias=True), "parameters": 10**14, "hiddenSize": 2**18}
    write(folder / "huge.yaml", model={"shape": huge}, workers={"accelerator": "nvidia-l4", "gpusPerNode": 1})
    found = planned(capsys, "huge.yaml", "--explore")
    assert found["layouts"] == []
    assert "a worker needs" in found["refused"][0]["why"]
    assert main(["plan", "huge.yaml", "--explore"]) == 0
    assert "What doesn't fit" in capsys.readouterr().out


def earlier_run(folder, *, seconds, **spec):
    """A run folder whose steps took so long."""
    wanted, data = job(**spec), data_shape()
    run = TrainingRun(
        job=wanted,
        identity=run_identity(wanted),
        model_revision="c0ffee",
        model_shape=STARCODERBASE,
        vocabulary=Vocabulary(size=49156),
        data=data,
        plan=plan(wanted, STARCODERBASE, data),
    )
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(run.to_json())
    numbers = {"epoch": 0.1, "loss": 1.0, "learning_rate": 1e-5, "grad_norm": 1.0, "supervised_tokens": 1, "tokens_per_second": 1.0}
    tokens = run.plan.tokens_per_step
    steps = [StepDone(step=n, total_steps=87, tokens=tokens, memory_bytes=50 * 2**30, seconds=seconds, **numbers) for n in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(to_json(step) + "\n" for step in steps))


def test_earlier_runs_calibrate_time_and_memory(folder, capsys):
    earlier_run(folder / "runs" / "one", seconds=30.0)
    earlier_run(folder / "runs" / "two", seconds=40.0)
    earlier_run(folder / "runs" / "other", seconds=1.0, workers={"accelerator": "nvidia-h100-80gb"})
    for place in (["runs"], ["runs/one", "--calibrate", "runs/two"]):
        found = planned(capsys, "job.yaml", "--tokens", "7440000", "--calibrate", *place)
        # Those runs' dialogues are shorter than the rows that are assumed here: attention takes a little longer.
        assert found["secondsPerStep"] == pytest.approx(35.0, rel=0.03)
        assert found["timing"]["calibratedBy"] == 2
        assert found["notes"][0] == "Time and memory are calibrated by 2 earlier runs."


def test_runs_on_other_machines_say_nothing(folder, capsys):
    earlier_run(folder / "runs" / "other", seconds=1.0, workers={"accelerator": "nvidia-h100-80gb"})
    assert main(["plan", "job.yaml", "--calibrate", "runs"]) == 2
    assert "there are runs only of nvidia-h100-80gb; name one on nvidia-a100-80gb" in " ".join(capsys.readouterr().err.split())

"""What a run leaves, that it can be repeated from it, and what is refused before anything is
written.
"""

from __future__ import annotations

import io
import json
import shlex
import shutil
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file

from kdcli.cli.app import run as kd
from kdcli.cli.console import Environment
from kdcli.errors import (
    DeviceUnavailable,
    Exit,
    Incompatible,
    NonFiniteLoss,
    NotFound,
    NotWritable,
    RunExists,
    UsageError,
)
from kdcli.files import finite, read_json, sha256_file
from kdcli.jobs import distill, evaluate, resume, train_teacher
from kdcli.jobs.events import EpochDone, Prepared
from kdcli.report.findings.baseline import baseline_command, find_baseline
from kdcli.results.weights_header import read_header
from kdcli.runs import folder as run_folder
from kdcli.runs.read import Run
from tests.unit.jobs.conftest import QUICK


def test_a_run_leaves_what_the_documentation_lists(trained):
    files = {path.name for path in (trained.out / "kd").iterdir()}
    assert files >= {
        "recipe.toml", "environment.json", "metrics.jsonl", "model.safetensors", "analysis.json", "summary.json",
        "report.md", "MODEL_CARD.md", "teacher.txt", "log.txt",
    }  # fmt: skip
    assert "state" not in files
    assert (trained.out / "latest").resolve() == trained.out / "skd"


def test_the_summary_is_the_result(trained):
    assert read_json(trained.out / "skd" / "summary.json") == json.loads(
        json.dumps(finite(asdict(trained.skd)))
    )


def test_what_tables_name_is_measured(trained):
    run = trained.kd
    lines = (trained.out / "kd" / "metrics.jsonl").read_text().splitlines()
    last = [line for line in map(json.loads, lines) if line["event"] == "epoch"][-1]
    assert run.train_losses == last["losses"]
    assert run.train_loss == sum(last["losses"].values())
    own, taught = (
        {at.temperature: at for at in found} for found in (run.energies, run.teacher_energies)
    )
    assert list(own) == list(taught) == [1.0, 4.0]
    assert (own[1.0].entropy, own[1.0].free_energy) == (run.test.entropy, run.test.free_energy)
    assert taught[1.0].entropy == run.teacher.test.entropy
    for gap in run.gaps:
        there = own[gap.temperature].entropy - taught[gap.temperature].entropy
        assert gap.entropy == pytest.approx(there, abs=1e-9)


def test_the_recipe_of_a_run_repeats_it_to_the_byte(trained, tmp_path):
    again = distill(trained.out / "skd" / "recipe.toml", out=tmp_path, name="again")
    assert sha256_file(tmp_path / "again" / "model.safetensors") == sha256_file(
        trained.out / "skd" / "model.safetensors"
    )
    assert again.recipe_sha256 == trained.skd.recipe_sha256


def test_a_checkpoint_knows_its_classes_data_method_and_measures(trained):
    header = read_header(trained.out / "skd")[1]
    assert (header.architecture, header.num_classes, header.data["name"], header.method) == (
        "mlp",
        10,
        "digits",
        "skd",
    )
    assert header.metrics["accuracy"] == trained.skd.test.accuracy
    assert header.teachers == (read_header(trained.out / "teacher")[1].tensors_sha256,)


def test_no_teacher_weights_are_in_the_students_file(trained):
    ours = load_file(trained.out / "skd" / "model.safetensors")
    theirs = load_file(trained.out / "teacher" / "model.safetensors")
    assert sum(tensor.numel() for tensor in ours.values()) < sum(
        tensor.numel() for tensor in theirs.values()
    )


def test_measures_can_be_had_again_from_the_checkpoint_alone(trained):
    found = evaluate([trained.out / "kd"]).evaluations[0].measures
    assert found == trained.kd.test


def test_a_teachers_recipe_is_trained_once_and_found_again(tmp_path):
    (tmp_path / "teacher.toml").write_text(
        '[model]\nname = "mlp"\n[train]\nepochs = 1\n[report]\nhtml = false\n'
    )
    prepared = []

    def note(event):
        if isinstance(event, Prepared):
            prepared.append(event.command)

    base = {
        "teacher.recipe": str(tmp_path / "teacher.toml"),
        "train.epochs": 1,
        "report.html": False,
    }
    for method in ("kd", "skd"):
        distill(
            student="mlp", out=tmp_path / "runs", listeners=[note], method=method, overrides=base
        )
    assert prepared == ["train-teacher", "distill", "distill"]


def test_a_baseline_is_measured_against_a_reference(trained, tmp_path):
    result = train_teacher(
        model="mlp",
        out=tmp_path,
        overrides={**QUICK, "report.reference": str(trained.out / "teacher")},
    )
    assert result.teachers == ()
    assert result.reference.architecture == "mlp"
    assert result.gap.entropy == pytest.approx(
        result.test.entropy - result.reference.test.entropy, abs=1e-6
    )


def test_the_best_epoch_is_kept_and_shipped_when_asked_for(tmp_path):
    epochs = []
    overrides = {
        **QUICK,
        "train.epochs": 4,
        "train.select": "best",
        "train.keep_best": True,
        "train.keep_every": 2,
    }
    result = train_teacher(
        model="mlp", out=tmp_path, name="run", overrides=overrides, listeners=[epochs.append]
    )
    best = max(event.val.accuracy for event in epochs if isinstance(event, EpochDone))
    assert result.val.accuracy == best
    assert result.test.selected == "best"
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "epoch-002.safetensors",
        "epoch-004.safetensors",
    ]
    kept = load_file(tmp_path / "run" / "best.safetensors")
    shipped = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(kept[name], shipped[name]) for name in kept)


def test_spherical_distillation_as_printed_learns(trained, tmp_path):
    for ce_logits in ("aligned", "raw"):
        result = distill(
            teacher=str(trained.out / "teacher"),
            method="skd",
            student="mlp",
            out=tmp_path,
            overrides={**QUICK, "method.align": "unit", "method.ce_logits": ce_logits},
        )
        assert result.test.accuracy > 0.6


def test_several_teachers_answer_as_one(trained, tmp_path):
    both = [str(trained.out / "teacher"), str(trained.out / "kd")]
    result = distill(teacher=both, method="kd", student="mlp", out=tmp_path, overrides=QUICK)
    assert len(result.teachers) == 2


def test_a_dry_run_writes_nothing(trained, tmp_path):
    assert (
        distill(
            teacher=str(trained.out / "teacher"), student="mlp", out=tmp_path / "runs", dry_run=True
        )
        is None
    )
    assert not (tmp_path / "runs").exists()


def test_gates_are_checked_and_everything_is_written_all_the_same(trained, tmp_path):
    overrides = {
        **QUICK,
        "gates.min_accuracy": 1.0,
        "gates.max_ece": 1.0,
        "gates.max_entropy_gap": 99.0,
        "gates.max_free_energy_gap": -99.0,
    }
    result = distill(
        teacher=str(trained.out / "teacher"),
        method="kd",
        student="mlp",
        out=tmp_path,
        name="run",
        overrides=overrides,
    )
    assert {gate.name: gate.passed for gate in result.gates} == {
        "min_accuracy": result.test.accuracy == 1.0, "max_ece": True, "max_entropy_gap": True, "max_free_energy_gap": False,
    }  # fmt: skip
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert (tmp_path / "run" / "report.md").exists()


# ---- bad input -----------------------------------------------------------------------------------


def refused(kind: type[UsageError], match: str):
    return pytest.raises(kind, match=match)


def test_a_run_name_that_exists_is_refused(trained):
    with refused(RunExists, "a run named kd exists"):
        train_teacher(model="mlp", name="kd", out=trained.out, overrides=QUICK)


def test_a_teacher_of_other_data_is_refused_before_anything_is_written(trained, tmp_path):
    with refused(Incompatible, "teacher predicts 10 classes, synthetic has 20"):
        distill(
            teacher=str(trained.out / "teacher"),
            data="synthetic",
            student="mlp",
            out=tmp_path / "runs",
            overrides={"data.classes": 20},
        )
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with refused(NotWritable, "no run can be made under .*file/runs: .*file is a file"):
        train_teacher(model="mlp", out=tmp_path / "file" / "runs", overrides=QUICK)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_refused(tmp_path):
    with refused(DeviceUnavailable, "no CUDA device") as caught:
        train_teacher(model="mlp", device="cuda", out=tmp_path / "runs")
    assert caught.value.exit_code == Exit.USAGE
    assert not (tmp_path / "runs").exists()


def test_a_dataset_that_is_not_there_says_how_to_get_it(tmp_path):
    with refused(NotFound, "mnist") as caught:
        train_teacher(
            model="mlp", data="mnist", out=tmp_path / "runs", overrides={"data.root": str(tmp_path)}
        )
    assert "kd datasets mnist --download" in caught.value.hint
    assert not (tmp_path / "runs").exists()


def test_a_loss_that_explodes_names_step_and_term_and_leaves_a_crash_file(tmp_path):
    with pytest.raises(
        NonFiniteLoss, match=r"'ce' is not finite at stage train, epoch \d+, step \d+"
    ) as caught:
        train_teacher(model="mlp", out=tmp_path, name="run", overrides={**QUICK, "optim.lr": 1e12})
    assert caught.value.exit_code == Exit.FAILURE
    assert caught.value.crash_file == tmp_path / "run" / "crash.txt"
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_finished_run_and_no_run_cannot_be_resumed(trained, tmp_path):
    with refused(UsageError, "is finished"):
        resume(trained.out / "kd")
    with refused(NotFound, "not a run directory"):
        resume(tmp_path)


def test_the_command_that_a_page_prints_makes_the_baseline(trained, monkeypatch):
    monkeypatch.chdir(trained.out)
    monkeypatch.setattr(run_folder, "point_latest", lambda _: None)  # others read it
    command = shlex.split(baseline_command(Run.load("kd")))
    try:
        assert kd([*command[1:], "-q"], Environment(io.StringIO(), io.StringIO(), {})) == 0
        assert find_baseline(Run.load("kd")).name == "kd-labels"
    finally:
        shutil.rmtree("kd-labels", ignore_errors=True)

"""What is followed along training: right numbers, the same images each time, and nothing trained
otherwise for being watched.
"""

from __future__ import annotations

import json
from functools import partial
from math import exp, log
from pathlib import Path

import pytest
import torch
from torch import nn

from kdcli.core import random
from kdcli.errors import Interrupted
from kdcli.files import sha256_file
from kdcli.jobs import distill, resume, train_teacher
from kdcli.jobs.build.networks import build_network
from kdcli.jobs.events import EpochDone, StageStarted, StepDone
from kdcli.jobs.train.dynamics import answering, summarise
from kdcli.methods.skd import Options, SphericalDistillation
from kdcli.results.dynamics import Snapshot
from kdcli.runs.read import Run
from tests.unit.jobs.conftest import QUICK

WITH_NORMS = {"student.name": "cnn-small", "train.batch_size": 256, "report.html": False}


def events_of(run: Path, *kinds: str) -> list[dict]:
    """Lines of metrics.jsonl, without what a clock says, and the digest of it."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clock = ("time", "seconds", "images_per_second", "digest")
    return [
        {key: value for key, value in line.items() if key not in clock}
        for line in lines
        if line["event"] in kinds
    ]


def probes_of(run: Path) -> list[Snapshot]:
    loaded = Run.load(run)
    return [*(stage.probe for stage in loaded.stages), *(epoch.probe for epoch in loaded.epochs)]


# ---- the numbers ---------------------------------------------------------------------------------


def logits(purpose: str, scale: float = 3.0) -> torch.Tensor:
    values = random.uniform(random.key(0, purpose), torch.arange(7 * 4)).view(7, 4)
    return (2 * values - 1) * scale


def softmax(row: list[float], tau: float) -> list[float]:
    parts = [exp(x / tau) for x in row]
    return [part / sum(parts) for part in parts]


def by_hand(x: torch.Tensor, z: torch.Tensor, y: list[int], tau: float) -> dict[str, float]:
    """Means over samples of one network's measures, and of KL from its softmax to z's, by loops."""
    found = {"accuracy": 0.0, "norm": 0.0, "entropy": 0.0, "free_energy": 0.0, "kl": 0.0}
    for row, other, label in zip(x.double().tolist(), z.double().tolist(), y, strict=True):
        centred = [value - sum(row) / len(row) for value in row]
        q, p = softmax(row, tau), softmax(other, tau)
        found["accuracy"] += row.index(max(row)) == label
        found["norm"] += sum(value**2 for value in centred) ** 0.5
        found["entropy"] -= sum(a * log(a) for a in q)
        found["free_energy"] += tau * log(sum(exp(value / tau) for value in centred))
        found["kl"] += sum(a * log(a / b) for a, b in zip(q, p, strict=True))
    return {name: value / len(y) for name, value in found.items()}


def test_measures_are_those_of_a_calculation_by_loops():
    z, v, a = logits("z"), logits("v", 6.0), logits("a", 1.0)
    y = [0, 1, 2, 3, 0, 1, 2]
    given = {"student": z, "teacher": v, "slt1": a}
    probe = summarise(
        given,
        torch.tensor(y),
        (1.0, 4.0),
        split="val",
        teacher="teacher",
        align=partial(SphericalDistillation.aligned, Options()),
    )
    assert (probe.trained, probe.n, probe.split, list(probe.networks)) == (
        "student",
        7,
        "val",
        list(given),
    )
    for name, x in given.items():
        for at, tau in zip(probe.networks[name].at, (1.0, 4.0), strict=True):
            expected = by_hand(x, z, y, tau)
            assert (probe.networks[name].accuracy, at.temperature) == (
                pytest.approx(expected["accuracy"]),
                tau,
            )
            assert probe.networks[name].logit_norm == pytest.approx(expected["norm"], rel=1e-9)
            assert (at.entropy, at.free_energy) == (
                pytest.approx(expected["entropy"]),
                pytest.approx(expected["free_energy"]),
            )
            assert at.kl == (None if name == "student" else pytest.approx(expected["kl"]))
    forms = {False: z, True: SphericalDistillation.aligned(Options(), z, v)[0]}
    assert [(gap.temperature, gap.aligned) for gap in probe.gaps] == [
        (1.0, False),
        (4.0, False),
        (1.0, True),
        (4.0, True),
    ]
    for gap in probe.gaps:
        ours, theirs = (by_hand(x, z, y, gap.temperature) for x in (forms[gap.aligned], v))
        assert gap.entropy == pytest.approx(ours["entropy"] - theirs["entropy"])
        assert gap.free_energy == pytest.approx(theirs["free_energy"] - ours["free_energy"])


def test_without_a_teacher_there_are_no_gaps():
    probe = summarise(
        {"network": logits("z")},
        torch.zeros(7, dtype=torch.int64),
        (1.0,),
        split="train",
        teacher=None,
        align=lambda z, v: (-z, v),
    )
    assert (list(probe.networks), probe.gaps) == (["network"], ())


def test_the_last_probe_agrees_with_what_the_run_measured_at_its_end(trained):
    for name, result in (("kd", trained.kd), ("skd", trained.skd)):
        last = probes_of(trained.out / name)[-1]
        student = last.networks["student"]
        assert (last.split, last.n, student.accuracy) == ("val", result.val.n, result.val.accuracy)
        # what a run ships may be divided by a temperature that its last epoch had not
        tau = result.calibration.temperature if result.calibration else 1.0
        assert student.logit_norm == pytest.approx(tau * result.val.logit_norm, rel=1e-5)
        if tau == 1.0:
            assert student.at[0].entropy == pytest.approx(result.val.entropy, rel=1e-5)
        assert {gap.aligned for gap in last.gaps} == ({False, True} if name == "skd" else {False})


# ---- which images, which networks ----------------------------------------------------------------


def test_where_nothing_is_held_out_training_images_serve_and_the_teacher_stays_level(
    trained, tmp_path
):
    overrides = {
        "train.epochs": 2,
        "student.hidden": [12],
        "report.html": False,
        "data.val_fraction": 0.0,
        "report.temperatures": [2.0],
    }
    distill(
        teacher=str(trained.out / "teacher"),
        method="kd",
        student="mlp",
        out=tmp_path,
        name="run",
        overrides=overrides,
    )
    probes = probes_of(tmp_path / "run")
    assert [(probe.split, probe.n, probe.trained) for probe in probes] == [
        ("train", 512, "student")
    ] * 3
    assert (
        len(
            {
                (probe.networks["teacher"].accuracy, probe.networks["teacher"].logit_norm)
                for probe in probes
            }
        )
        == 1
    )
    assert [at.temperature for at in probes[0].networks["student"].at] == [1.0, 2.0]
    # log 10 = 2.303: nothing is learnt yet
    assert probes[0].networks["student"].at[0].entropy > 2.0


def test_a_network_alone_and_one_with_a_reference(trained, tmp_path):
    assert list(probes_of(trained.out / "teacher")[0].networks) == ["network"]
    overrides = {**QUICK, "train.epochs": 1, "report.reference": str(trained.out / "teacher")}
    train_teacher(model="mlp", out=tmp_path, name="run", overrides=overrides)
    last = probes_of(tmp_path / "run")[-1]
    assert list(last.networks) == ["network", "reference"]
    assert last.gaps


def test_the_other_networks_of_a_method_are_followed_too(trained, tmp_path):
    def names(method: str, **options) -> list[tuple[str, list[str]]]:
        run, teacher = tmp_path / "-".join((method, *options)), str(trained.out / "teacher")
        given = (
            {"report.reference": teacher} if method == "dml" else {"teacher.checkpoint": teacher}
        )
        own = {f"method.{key}": value for key, value in options.items()}
        overrides = {**QUICK, **given, **own, "train.epochs": 1, "student.hidden": [8]}
        distill(method=method, student="mlp", out=tmp_path, name=run.name, overrides=overrides)
        return list(
            dict.fromkeys((probe.trained, tuple(probe.networks)) for probe in probes_of(run))
        )

    assert names("slkd") == [("student", ("student", "slt1", "slt2", "teacher"))]
    # the first stage is about a self-learning teacher; there is no student to speak of yet
    assert names("slkd", sequential=True) == [
        ("slt1", ("slt1", "slt2", "teacher")),
        ("student", ("student", "slt1", "slt2", "teacher")),
    ]
    assert names("dml") == [("student", ("student", "peer1", "reference"))]
    assert names("born_again", generations=2) == [
        ("generation1", ("generation1", "teacher")),
        ("student", ("student", "teacher")),
    ]


def test_nothing_is_probed_where_nobody_wants_it(tmp_path):
    train_teacher(
        model="mlp",
        out=tmp_path,
        name="run",
        overrides={**QUICK, "train.epochs": 1, "report.probe": 0},
    )
    assert [line["probe"] for line in events_of(tmp_path / "run", "stage", "epoch")] == [None, None]


def test_large_images_are_read_again_each_time_and_are_the_same(monkeypatch, tmp_path):
    for name, limit in (("held", 2**26), ("read", 0)):
        monkeypatch.setattr("kdcli.jobs.train.dynamics.HELD_BYTES", limit)
        train_teacher(model="mlp", out=tmp_path, name=name, overrides={**QUICK, "train.epochs": 1})
    assert events_of(tmp_path / "held", "stage", "epoch") == events_of(
        tmp_path / "read", "stage", "epoch"
    )


# ---- measuring changes nothing -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["kd", "slkd"])
def test_the_weights_are_the_same_with_and_without_a_probe(trained, tmp_path, method):
    overrides = {
        **WITH_NORMS,
        "train.epochs": 2,
        "train.ema": 0.9,
        "teacher.checkpoint": str(trained.out / "teacher"),
    }
    for name, count in (("with", 512), ("without", 0)):
        distill(
            out=tmp_path, name=name, method=method, overrides={**overrides, "report.probe": count}
        )
    assert sha256_file(tmp_path / "with" / "model.safetensors") == sha256_file(
        tmp_path / "without" / "model.safetensors"
    )
    ours, theirs = (
        [{**line, "probe": None} for line in events_of(tmp_path / name, "stage", "epoch")]
        for name in ("with", "without")
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("method", "options", "stop"),
    [
        # in the middle of the first epoch: what was probed before it cannot be had again
        ("kd", {}, (1, 2)),
        ("kd", {}, (1, 9)),
        ("born_again", {"method.generations": 2}, (1, 4)),
        ("born_again", {"method.generations": 2}, (2, 1)),  # the last state is the first stage's
    ],
)
def test_a_resumed_run_tells_what_one_that_never_stopped_tells(
    trained, tmp_path, method, options, stop
):
    overrides = {
        **WITH_NORMS,
        "train.epochs": 2,
        "train.state_seconds": 1e-6,
        "teacher.checkpoint": str(trained.out / "teacher"),
        **options,
    }
    number, steps = 0, 0  # of the stage, and taken in it

    def listen(event):
        nonlocal number, steps
        number, steps = (
            (event.number, 0)
            if isinstance(event, StageStarted)
            else (number, steps + isinstance(event, StepDone))
        )
        if (number, steps) == stop and isinstance(event, StepDone):
            raise Interrupted("stop")

    distill(out=tmp_path, name="straight", method=method, overrides=overrides)
    with pytest.raises(Interrupted):
        distill(
            out=tmp_path, name="stopped", method=method, overrides=overrides, listeners=[listen]
        )
    resume(tmp_path / "stopped")
    straight, resumed = (
        events_of(tmp_path / name, "stage", "epoch", "done") for name in ("straight", "stopped")
    )
    assert [{**line, "wall_seconds": 0} for line in resumed] == [
        {**line, "wall_seconds": 0} for line in straight
    ]
    assert all(line["probe"] for line in straight if line["event"] != "done")


def test_a_run_that_stopped_before_its_first_state_begins_anew(trained, tmp_path):
    def stop(event):
        if isinstance(event, EpochDone):
            raise Interrupted("stop")

    for name, listeners in (("straight", ()), ("stopped", (stop,))):
        overrides = {**QUICK, "train.epochs": 1}
        if listeners:
            with pytest.raises(Interrupted):
                train_teacher(
                    model="mlp", out=tmp_path, name=name, overrides=overrides, listeners=listeners
                )
            resume(tmp_path / name)
        else:
            train_teacher(model="mlp", out=tmp_path, name=name, overrides=overrides)
    assert events_of(tmp_path / "stopped", "stage", "epoch") == events_of(
        tmp_path / "straight", "stage", "epoch"
    )


# ---- before anything is trained ------------------------------------------------------------------


@pytest.fixture
def deep() -> nn.Module:
    return build_network("resnet56", num_classes=10, input_shape=(1, 8, 8), seed=0)


def test_an_untrained_network_is_measured_on_the_statistics_of_the_images(deep):
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    state = {name: tensor.clone() for name, tensor in deep.state_dict().items()}
    with torch.inference_mode(), answering(deep, untrained=True):
        z = deep(x).logits
    # 10^4 with the mean of 0 and variance of 1 that batch norms begin with
    assert z.norm(dim=1).mean() < 10
    assert all(torch.equal(tensor, state[name]) for name, tensor in deep.state_dict().items())
    assert all(
        module.training and getattr(module, "track_running_stats", True)
        for module in deep.modules()
    )


def test_statistics_that_were_learnt_are_used(deep):
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for module in deep.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(0.1)
    with torch.inference_mode(), answering(deep, untrained=True):
        z = deep(x).logits
    with torch.inference_mode():
        assert torch.equal(z, deep.eval()(x).logits)

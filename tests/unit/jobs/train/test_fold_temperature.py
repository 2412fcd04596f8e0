"""A temperature fitted on held-out images is in what a run ships: it changes no class, is told
wherever the run is described, and never costs a run.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdcli import catalog
from kdcli.analysis.temperature_scaling import Fit, fit_temperature
from kdcli.engine.checkpoint import load_state
from kdcli.engine.runtime import Runtime
from kdcli.errors import Interrupted, RecipeInvalid
from kdcli.files import sha256_file
from kdcli.jobs import analyze_gap, distill, evaluate, resume, train_teacher
from kdcli.jobs.build.method import method_class
from kdcli.jobs.measure.from_checkpoint import CheckpointEvaluator
from kdcli.jobs.train import execution
from kdcli.models._staged_network import StagedNetwork
from kdcli.recipe.measured_data import asked_for
from kdcli.results.weights_header import read_header
from tests.unit.jobs.conftest import QUICK

SMALL = {**QUICK, "student.hidden": [12], "report.explain": False}
FREE = [name for name in catalog.names("method") if method_class(name).scale_free]


def learn(trained, out: Path, name: str, **overrides):
    return distill(
        teacher=str(trained.out / "teacher"),
        student="mlp",
        out=out,
        name=name,
        overrides={**SMALL, **overrides},
    )


def answers(run, split):
    evaluator = CheckpointEvaluator(asked_for(), split=split, runtime=Runtime("cpu"))
    return evaluator.answers(run.checkpoint)


def test_the_methods_that_leave_the_scale_free():
    assert {"skd", "logit_std"} <= set(FREE)
    assert "kd" not in FREE
    page = Path(__file__).parents[4] / "docs" / "reference" / "methods" / "logit_std.md"
    assert "divided by a temperature where images are held out" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("method", FREE)
def test_such_a_student_ships_its_logits_divided_by_what_fits_held_out_images(
    trained, tmp_path, method
):
    own = {"method.name": method}
    plain = learn(trained, tmp_path, "plain", **own, **{"train.calibrate": "off"})
    folded = learn(trained, tmp_path, "folded", **own)
    before, after = answers(plain, "test"), answers(folded, "test")
    held_out = answers(plain, "val")

    found = folded.calibration
    assert found.n == len(held_out.targets)
    assert found.temperature == fit_temperature(held_out.logits, held_out.targets).temperature
    assert read_header(folded.run)[1].folded_temperature == found.temperature
    assert torch.equal(after.logits.argmax(1), before.logits.argmax(1))
    torch.testing.assert_close(after.logits * found.temperature, before.logits)

    assert (found.nll_before, found.ece_before) == pytest.approx(
        (plain.test.nll, plain.test.ece), rel=1e-5
    )
    assert (found.nll_after, found.ece_after) == (folded.test.nll, folded.test.ece)
    assert folded.val.nll < plain.val.nll
    (again,) = evaluate([folded.run]).evaluations
    assert (again.measures.nll, again.measures.ece) == (folded.test.nll, folded.test.ece)

    assert plain.calibration is None
    assert read_header(plain.run)[1].folded_temperature is None
    weights, kept = load_file(folded.checkpoint), load_file(plain.checkpoint)
    for name, tensor in kept.items():
        divisor = found.temperature if name.startswith("head.") else 1
        assert torch.equal(weights[name], tensor / divisor), name


def test_pages_say_what_it_was_fitted_on_and_what_it_did(trained):
    found = trained.skd.calibration
    tau = f"{found.temperature:.3g}"
    for page in ("report.md", "MODEL_CARD.md"):
        text = (trained.out / "skd" / page).read_text().replace("\u00a0", " ")
        assert f"divided by {tau}" in text
        assert f"{found.n} images held out of the training set" in text
        assert "on which the epoch was chosen" not in text
        assert "; the temperature was chosen on them." in text
        for value in (found.nll_before, found.nll_after, found.ece_before, found.ece_after):
            assert f"{value:.3f}" in text
    summary = json.loads((trained.out / "skd" / "summary.json").read_text())
    assert summary["calibration"]["temperature"] == found.temperature


def test_a_page_says_when_the_epoch_was_chosen_on_the_same_images(trained, tmp_path):
    run = learn(trained, tmp_path, "best", **{"method.name": "skd", "train.select": "best"})
    assert run.calibration.temperature
    page = (tmp_path / "best" / "report.md").read_text()
    assert "the same on which the epoch was chosen" in page
    assert "the epoch and the temperature were chosen on them" in page


def test_other_methods_and_teachers_do_it_when_asked(trained, tmp_path):
    assert trained.kd.calibration is None
    assert trained.teacher.calibration is None
    run = train_teacher(
        model="mlp",
        data="digits",
        out=tmp_path,
        name="teacher",
        overrides={**QUICK, "train.epochs": 1, "train.calibrate": "on"},
    )
    assert run.calibration.temperature == read_header(run.run)[1].folded_temperature
    assert run.calibration.nll_after == run.test.nll != run.calibration.nll_before


def test_the_gap_in_the_loss_is_that_of_the_logits_in_training(trained, tmp_path):
    plain, folded = (
        learn(
            trained,
            tmp_path,
            wanted,
            **{"method.name": "kd", "train.epochs": 1, "train.calibrate": wanted},
        )
        for wanted in ("off", "on")
    )
    assert folded.calibration.temperature
    # kd's loss sees raw logits: those of training, which are no longer those of the network
    assert plain.aligned_gap == plain.gap
    assert folded.gap.entropy != pytest.approx(plain.gap.entropy, abs=1e-3)
    assert folded.aligned_gap.entropy == pytest.approx(plain.gap.entropy, abs=1e-5)
    report = analyze_gap(trained.out / "teacher", [folded.run])
    found = {pair.form: pair.at[0].entropy.value for pair in report.pairs}
    assert found["raw"] == pytest.approx(folded.gap.entropy, abs=1e-6)
    assert found["aligned"] == pytest.approx(folded.aligned_gap.entropy, abs=1e-6)
    # so does the gradient that the loss had
    (there,) = analyze_gap(trained.out / "teacher", [plain.run]).explanations
    (here,) = report.explanations
    assert here.rescaling[0].spearman.value == pytest.approx(
        there.rescaling[0].spearman.value, abs=1e-3
    )


def test_without_held_out_images_the_logits_stay_and_the_run_says_why(trained, tmp_path):
    own = {"method.name": "skd", "data.val_fraction": 0.0, "train.epochs": 1}
    run = learn(trained, tmp_path, "none", **own)
    off = learn(trained, tmp_path, "off", **own, **{"train.calibrate": "off"})
    assert run.calibration.temperature is None
    assert "data.val_fraction" in run.calibration.why_not
    assert (
        "No temperature was fitted to the logits: no image is held out"
        in (tmp_path / "none" / "report.md").read_text()
    )
    assert off.calibration is None
    weights, kept = load_file(run.checkpoint), load_file(off.checkpoint)
    assert all(torch.equal(weights[name], kept[name]) for name in kept)


@pytest.mark.parametrize(
    ("edge", "why"), [("cold", "are classified rightly"), ("hot", "as by chance")]
)
def test_images_that_no_temperature_fits_leave_the_logits(
    trained, tmp_path, monkeypatch, edge, why
):
    monkeypatch.setattr(
        "kdcli.jobs.train.fold_temperature.fit_temperature", lambda *_, **__: Fit(1e-3, edge)
    )
    run = learn(trained, tmp_path, edge, **{"method.name": "skd", "train.epochs": 1})
    assert run.calibration.temperature is None
    assert why in run.calibration.why_not


def test_asking_for_it_without_held_out_images_is_refused_before_training(trained, tmp_path):
    with pytest.raises(RecipeInvalid) as caught:
        learn(trained, tmp_path, "x", **{"train.calibrate": "on", "data.val_fraction": 0.0})
    assert "data.val_fraction is 0" in caught.value.diagnostics[0].problem
    assert not (tmp_path / "x").exists()


OWN = """from torch import nn

class Cosine(nn.Linear):
    def forward(self, x):
        x, w = nn.functional.normalize(x), nn.functional.normalize(self.weight)
        return 5 * nn.functional.linear(x, w)

def cosine(num_classes, input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), Cosine(16, num_classes))
"""


def test_a_network_whose_last_layer_cannot_take_it_keeps_its_logits_and_says_so(trained, tmp_path):
    source = tmp_path / "own.py"
    source.write_text(OWN)
    own = {"method.name": "skd", "train.epochs": 1, "student.name": f"{source}:cosine"}
    overrides = {key: value for key, value in {**SMALL, **own}.items() if key != "student.hidden"}
    run = distill(
        teacher=str(trained.out / "teacher"), out=tmp_path, name="run", overrides=overrides
    )
    assert run.calibration.temperature is None
    assert "are not what a last linear layer gives" in run.calibration.why_not
    assert read_header(run.run)[1].folded_temperature is None


def test_a_run_that_is_killed_after_folding_resumes_to_the_same_bytes(
    trained, tmp_path, monkeypatch
):
    own = {"method.name": "skd"}
    whole = learn(trained, tmp_path, "whole", **own)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(execution, "make_header", killed)
        with pytest.raises(Interrupted):
            learn(trained, tmp_path, "stopped", **own)
    state = load_state(tmp_path / "stopped" / "state")
    assert state.facts["position"]["epoch"] == 2
    again = resume(tmp_path / "stopped")
    assert sha256_file(Path(again.checkpoint)) == sha256_file(Path(whole.checkpoint))
    assert again.calibration == whole.calibration


def test_weights_are_put_back_where_dividing_them_does_not_divide_the_logits(
    trained, tmp_path, monkeypatch
):
    own = {"method.name": "skd", "train.epochs": 1}
    off = learn(trained, tmp_path, "off", **own, **{"train.calibrate": "off"})

    def every_layer(network):
        return tuple(item for item in network.modules() if isinstance(item, torch.nn.Linear))

    monkeypatch.setattr(StagedNetwork, "linear_heads", every_layer)
    run = learn(trained, tmp_path, "run", **own)
    assert run.calibration.temperature is None
    weights, kept = load_file(run.checkpoint), load_file(off.checkpoint)
    assert all(torch.equal(weights[name], kept[name]) for name in kept)

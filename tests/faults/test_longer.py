"""`kd resume RUN --epochs N`: a finished run goes on from its last state, in a run of its own that says
so.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcli.errors import Interrupted, UsageError
from kdcli.files import read_json, sha256_file
from kdcli.jobs import resume, train_longer, train_teacher
from kdcli.jobs.events import EpochDone, Prepared
from kdcli.results.weights_header import read_header

QUICK = {
    "data.train_limit": 60, "train.batch_size": 20, "report.html": False, "report.probe": 0,
    "schedule.name": "constant", "model.hidden": [8], "model.dropout": 0.2, "train.ema": 0.9,
}  # fmt: skip


def train(out: Path, name: str, epochs: int, **more):
    return train_teacher(
        model="mlp", data="digits", epochs=epochs, name=name, out=out, overrides=QUICK, **more
    )


def weights(run: Path) -> str:
    return read_header(run)[1].tensors_sha256


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    train(out, "short", 2, keep_state=True)
    train(out, "whole", 4)
    return out


def test_it_ends_with_the_bits_of_a_run_that_was_as_long_from_the_start(out):
    before = sha256_file(out / "short" / "model.safetensors")
    result = train_longer(out / "short", 4)
    longer = out / "short-to-4"
    assert result.run == str(longer)
    assert weights(longer) == weights(out / "whole")
    assert sha256_file(out / "short" / "model.safetensors") == before
    # nobody may take it for the other: its recipe is another
    assert result.recipe_sha256 != read_json(out / "whole" / "summary.json")["recipe_sha256"]
    assert result.epochs == 4


def test_the_run_says_what_it_continues(out):
    longer = out / "short-to-5"
    heard: list[object] = []
    train_longer(out / "short", 5, listeners=(heard.append,))
    told = str(out / "short")
    (prepared,) = (event for event in heard if isinstance(event, Prepared))
    assert any(f"trains {told} longer" in note for note in prepared.notes)
    assert read_header(longer)[1].continues == told
    assert read_json(longer / "summary.json")["continues"] == told
    assert f"from the last state of {told}" in (longer / "report.md").read_text()
    assert f"the training of {told}" in (longer / "MODEL_CARD.md").read_text()


def test_stopped_it_is_resumed_like_any_other(out):
    def stop(event) -> None:
        if isinstance(event, EpochDone) and event.at.epoch == 3:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        train_longer(out / "short", 6, listeners=(stop,))
    resume(out / "short-to-6")
    train(out, "whole-6", 6)
    assert weights(out / "short-to-6") == weights(out / "whole-6")


def test_what_cannot_go_on_is_refused_before_anything_is_written(out):
    with pytest.raises(UsageError, match="kept no state, and cannot be trained longer") as caught:
        train_longer(out / "whole", 8)
    assert "--keep-state" in caught.value.hint
    with pytest.raises(UsageError, match=r"has had 2 epochs, and train\.epochs is 2"):
        train_longer(out / "short", 2)
    with pytest.raises(UsageError, match=r"only train\.epochs may differ"):
        train_teacher(
            model="mlp", data="digits", epochs=9, name="other", out=out,
            overrides={**QUICK, "optim.lr": 0.2, "train.continues": str(out / "short")},
        )  # fmt: skip
    assert not any((out / name).exists() for name in ("whole-to-8", "short-to-2", "other"))

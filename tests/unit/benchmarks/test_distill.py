"""The numbers that are required, and the file that the numbers go to."""

from __future__ import annotations

import json

import pytest

from benchmarks.distill import NAMES, arguments, measure, ratios, required, show
from benchmarks.pairs import PAIRS


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("resnet56-resnet20", 4.5),
        ("resnet32x4-resnet8x4", 6.0),
        ("wrn_40_2-wrn_16_2", 6.0),
        ("fashion-mnist", 6.0),
    ],
)
def test_required_on_a_cpu(name, stored):
    auto = {
        "live / textbook": 3.5,
        "stored / textbook": stored,
        "stored / plain": 0.97,
        "plain / bare": 0.90,
    }
    assert required(PAIRS[name], "auto", "cpu") == auto
    assert required(PAIRS[name], "fp32", "cpu") == {
        "live / textbook": 1.3,
        "stored / textbook": 1.9,
    }


def test_required_on_a_gpu_of_one_pair_at_automatic_settings():
    found = {
        (name, kind): required(pair, kind, "cuda")
        for name, pair in PAIRS.items()
        for kind in ("fp32", "auto", "graphs")
    }
    for kind in ("auto", "graphs"):
        assert found.pop(("resnet56-resnet20", kind)) == {
            "live / textbook": 8.0, "stored / textbook": 10.0, "stored / plain": 0.97, "plain / bare": 0.90
        }  # fmt: skip
    assert not any(found.values())


def test_each_ratio_has_its_own_requirement():
    speeds = {
        "textbook": [100.0],
        "live": [400.0],
        "stored": [500.0],
        "plain": [500.0],
        "bare": [600.0],
    }
    found = {
        item.name: item for item in ratios(speeds, {"live / textbook": 3.5, "plain / bare": 0.9})
    }
    assert [(item.median, item.verdict) for item in found.values()] == [
        (4.0, "ok"), (5.0, ""), (1.0, ""), (pytest.approx(5 / 6), "short")
    ]  # fmt: skip


def test_a_pair_is_measured_against_the_faster_textbook_loop_and_told_whole(
    pair, monkeypatch, capsys
):
    monkeypatch.setattr("benchmarks.textbook.WORKERS", 0)
    monkeypatch.setattr("benchmarks.textbook.TRIED_WORKERS", (0,))
    found = json.loads(json.dumps(measure(pair, ["fp32"], rounds=2, batches=2, threads=None)))
    assert list(found["configurations"]) == [
        "textbook default",
        "textbook best",
        *(f"fp32 {name}" for name in NAMES),
    ]
    for name, row in found["configurations"].items():
        assert len(row["rounds"]) == 2
        assert row["low"] <= row["median"] <= row["high"]
        assert (
            (row["warm_up_seconds"] is None)
            if name.startswith("textbook")
            else (row["warm_up_seconds"] > 0)
        )
    faster = max(
        ("textbook default", "textbook best"),
        key=lambda name: found["configurations"][name]["median"],
    )
    live, rival = (found["configurations"][name]["rounds"] for name in ("fp32 live", faster))
    assert found["ratios"]["fp32"]["live / textbook"]["rounds"] == pytest.approx(
        [a / b for a, b in zip(live, rival, strict=True)]
    )
    assert found["chosen"]["fp32"]["stored"]["teacher_logits"]["value"] == "exact"
    show("small", found)
    shown = capsys.readouterr().out
    assert "fp32: kd, stored logits" in shown
    assert "(>= 1.9)" in shown


def test_everything_is_measured_unless_told_otherwise():
    options = arguments().parse_args([])
    assert options.pairs == list(PAIRS)
    assert options.numerics == ["fp32", "auto"]
    assert options.rounds >= 5

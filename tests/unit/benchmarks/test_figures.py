"""Medians, ratios and verdicts: what a claim about speed rests on."""

from __future__ import annotations

import json

import pytest

from benchmarks import figures
from benchmarks.figures import Ratio, Timed, in_turn, ratio, spread


def test_a_spread_is_the_median_and_the_extremes():
    found = spread([3.0, 1.0, 2.0])
    assert (found.median, found.low, found.high) == (2.0, 1.0, 3.0)


def test_ratios_are_taken_within_rounds_so_that_a_slow_round_cancels_out():
    # the second round met a machine half as fast: the speeds differ, their ratio does not
    found = ratio("kd / textbook", [400.0, 200.0, 420.0], [100.0, 50.0, 100.0])
    assert found.rounds == pytest.approx((4.0, 4.0, 4.2))
    assert found.median == pytest.approx(4.0)


def test_rounds_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        ratio("kd / textbook", [1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("least", "verdict"), [(None, ""), (3.5, "ok"), (4.0, "ok"), (4.1, "short")]
)
def test_a_verdict_compares_the_median_with_what_is_required(least, verdict):
    found = Ratio("kd / textbook", (3.0, 4.0, 9.0), least)
    assert found.verdict == verdict
    assert (verdict in found.show()) if least is not None else ("(>=" not in found.show())
    assert found.to_json()["verdict"] == (verdict or None)
    assert found.to_json()["rounds"] == [3.0, 4.0, 9.0]


def test_segments_take_turns_forwards_and_backwards():
    order = []

    def segment(name, images):
        return lambda: (order.append(name), Timed(images, 2.0))[1]

    speeds = in_turn({"a": segment("a", 10), "b": segment("b", 20)}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert speeds == {"a": [5.0] * 3, "b": [10.0] * 3}


def test_what_was_measured_is_kept_with_the_machine_it_was_measured_on(tmp_path, capsys):
    facts = figures.machine()
    figures.keep("distill", facts, {"settings": {"rounds": 5}}, tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["benchmark"] == "distill"
    assert found["settings"] == {"rounds": 5}
    assert {"torch", "cpu", "cores", "threads", "gpu", "git", "load_before", "load_after"} <= found[
        "environment"
    ].keys()
    assert "found.json" in capsys.readouterr().out


def test_a_busy_machine_is_told(capsys):
    facts = figures.machine()
    figures.show_machine({**facts, "load_before": 2.0})
    assert "busy" in capsys.readouterr().out
    figures.show_machine({**facts, "load_before": 0.1})
    assert "busy" not in capsys.readouterr().out

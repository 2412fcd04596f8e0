"""A run directory is read as it stands: finished, running, killed and resumed, or damaged."""

import json
import math
from dataclasses import asdict

import pytest

from kdcli.errors import CorruptFile, NotFound
from kdcli.results.run import RunAnalysis, RunResult
from kdcli.runs.find import find_run, newest
from kdcli.runs.read import Run
from kdcli.typed import from_dict
from tests.unit.report import fake_run


def test_a_finished_run_comes_back_as_it_was_written(run_folder):
    run = Run.load(run_folder)
    assert run.summary == fake_run.summary()
    assert run.analysis == fake_run.analysis()
    assert run.command == "distill"
    assert [epoch.epoch for epoch in run.epochs] == list(range(1, 31))
    assert run.epochs[-1].val.split == "val"
    assert run.stages[0].trainable == 20500


def test_a_running_job_may_be_read(tmp_path):
    folder = fake_run.write_run(tmp_path / "run", lines=fake_run.epoch_lines(3))
    with (folder / "metrics.jsonl").open("a") as handle:
        handle.write('{"event": "epoch", "stage": "dis')
    run = Run.load(folder)
    assert run.summary is None
    assert run.analysis is None
    assert (len(run.epochs), run.torn) == (3, True)
    assert (run.name, run.command) == ("run", "distill")


def test_a_resumed_run_counts_an_epoch_once(tmp_path):
    lines = [*fake_run.epoch_lines(4), *fake_run.epoch_lines(6)]
    lines[-1]["losses"] = {"ce": 0.5}
    run = Run.load(fake_run.write_run(tmp_path / "run", lines=lines))
    assert [epoch.epoch for epoch in run.epochs] == [1, 2, 3, 4, 5, 6]
    assert run.epochs[-1].losses == {"ce": 0.5}


def test_numbers_that_json_cannot_say_come_back_as_nan(tmp_path):
    diverged = fake_run.summary(test=fake_run.measures(0.1, nll=math.inf), wall_seconds=math.nan)
    run = Run.load(fake_run.write_run(tmp_path / "run", result=diverged))
    assert run.summary.test.nll is None  # as where there is nothing to measure it by
    assert math.isnan(run.summary.wall_seconds)
    assert run.summary.test.accuracy == 0.1


def test_keys_of_a_newer_kd_are_ignored():
    assert (
        from_dict(RunResult, {**asdict(fake_run.summary()), "invented_later": 1}, "summary.json")
        == fake_run.summary()
    )


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", '{"run": "x"}'),
        ("summary.json", "{"),
        ("recipe.toml", "seed ="),
    ],
)
def test_a_damaged_file_is_named(run_folder, file, content):
    (run_folder / file).write_text(content)
    with pytest.raises(CorruptFile, match=file):
        Run.load(run_folder)


def test_a_damaged_analysis_is_named_and_left_out(run_folder):
    (run_folder / "analysis.json").write_text("[]")
    run = Run.load(run_folder)
    assert run.analysis is None
    assert "analysis.json" in "".join(run.damage)


def test_a_missing_field_is_named():
    data = asdict(fake_run.summary())
    del data["test"]["nll"]
    with pytest.raises(CorruptFile, match=r"test\.nll"):
        from_dict(RunResult, data, "summary.json")


def test_results_survive_json(run_folder):
    again = from_dict(
        RunAnalysis, json.loads(json.dumps(asdict(fake_run.analysis(100)))), "analysis.json"
    )
    assert again == fake_run.analysis(100)


def test_a_run_is_found_by_its_folder_or_any_file_in_it(run_folder):
    assert find_run(run_folder) == run_folder
    assert find_run(str(run_folder / "summary.json")) == run_folder


@pytest.mark.parametrize("where", ["nothing-here", "."])
def test_where_there_is_no_run_the_hint_names_some(run_folder, where):
    with pytest.raises(NotFound) as caught:
        find_run(run_folder.parent / where)
    assert str(run_folder) in caught.value.hint


def test_newest_is_the_run_of_that_command_that_finished_last(run_folder, teacher_folder):
    runs = run_folder.parent
    fake_run.write_run(runs / "unfinished", lines=fake_run.epoch_lines(2))
    (runs / "latest").symlink_to(run_folder)
    assert newest(runs) == run_folder
    assert newest(runs, "train-teacher") == teacher_folder
    assert newest(runs, None) == teacher_folder
    with pytest.raises(NotFound, match="no finished distill run") as caught:
        newest(runs / "empty")
    assert "kd distill" in caught.value.hint

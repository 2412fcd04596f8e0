"""`kd search`: it selects on held-out images, keeps to its budget, and goes on where it was
stopped.
"""

from __future__ import annotations

import io

import pytest

from kdcli.cli.app import run
from kdcli.cli.console import Environment
from kdcli.errors import CorruptFile, Exit, Interrupted, KdError, UsageError
from kdcli.jobs import search
from kdcli.jobs.searching.candidates import named, spread, within
from kdcli.jobs.searching.race import rungs
from kdcli.jobs.searching.students import choose, frontier_of
from kdcli.recipe.resolve import Flag
from kdcli.recipe.schema import GatesSection
from kdcli.results.search import Candidate, Score, Trial
from kdcli.runs.find import runs_in
from tests.unit.jobs.searching.conftest import StopAfter


def _search(recipes, teacher, out, *sets, **more):
    flags = (Flag("--teacher", "teacher.checkpoint", teacher),)
    given = {"candidates": ["mlp", "cnn-small"], "methods": ["kd"], "trials": 3, **more}
    return search(recipes / "student.toml", out=out, sets=sets, flags=flags, **given)


@pytest.fixture(scope="module")
def found(recipes, teacher, tmp_path_factory):
    return _search(recipes, teacher, tmp_path_factory.mktemp("whole"))


def test_the_test_images_are_used_once_and_nothing_is_chosen_on_them(found):
    finished = [run for run in runs_in(found.folder) if (run / "summary.json").exists()]
    assert [str(run) for run in finished] == [found.run]
    taken = next(each for each in found.trials if each.number == found.chosen)
    reached = [each.last for each in found.trials if each.last.epochs == found.rungs[-1]]
    assert taken.last.accuracy == max(score.accuracy for score in reached)
    assert all(score.n == 144 for each in found.trials for score in each.scores)
    assert found.test_n == 360


def test_a_trial_is_a_run_that_stands_in_the_folder(found):
    for trial in found.trials:
        assert trial.last.run in {str(run) for run in runs_in(found.folder)}
    left = [each for each in found.trials if each.state == "left behind"]
    assert all(each.last.epochs < found.rungs[-1] for each in left)
    page = (runs_in(found.folder)[0].parent / "search.md").read_text()
    assert found.again in page
    assert "taken" in page


def test_stopped_and_started_again_it_finds_the_same(found, recipes, teacher, tmp_path):
    with pytest.raises(Interrupted) as stopped:
        _search(recipes, teacher, tmp_path, listeners=[StopAfter(2)], command="kd search again")
    assert stopped.value.hint == "kd search again"
    again = _search(recipes, teacher, tmp_path)

    def told(result):
        return [
            (each.parameters, each.state, [score.accuracy for score in each.scores])
            for each in result.trials
        ]

    assert told(again) == told(found)
    assert (again.chosen, again.test_accuracy) == (found.chosen, found.test_accuracy)
    with pytest.raises(UsageError, match="holds another search: its learning rate"):
        _search(recipes, teacher, tmp_path, "optim.lr=0.1")
    journal = tmp_path / "search.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 99')  # cut off by a kill
    assert _search(recipes, teacher, tmp_path).chosen == found.chosen
    journal.write_bytes(b"{}\n" + journal.read_bytes())
    with pytest.raises(CorruptFile, match=r"search\.journal cannot be read"):
        _search(recipes, teacher, tmp_path)


def test_without_held_out_images_it_is_refused(recipes, teacher, tmp_path):
    with pytest.raises(UsageError, match="selects on held-out images"):
        _search(recipes, teacher, tmp_path / "runs", "data.val_fraction=0")
    assert not (tmp_path / "runs").exists()


def test_a_budget_that_no_network_meets_names_the_nearest(recipes, teacher, tmp_path):
    with pytest.raises(UsageError, match=r"--max-parameters 10: the nearest is \w"):
        _search(recipes, teacher, tmp_path / "a", "gates.max_parameters=10")
    assert not (tmp_path / "a").exists()
    with pytest.raises(UsageError, match=r"--max-latency 1\.00e-06 ms: the nearest is \w"):
        _search(recipes, teacher, tmp_path / "b", "gates.max_latency_ms=1e-6")


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        (("--candidates", "cnn-small"), "meets --max-parameters 10: the nearest is cnn-small"),
        ((), "no network of the zoo is smaller than the teacher"),
    ],
)
def test_no_student_is_asked_for_where_none_follows_from_the_teacher(
    teacher, tmp_path, candidates, said
):
    """kd knows no smaller sibling of an mlp: the candidates take its place, or the zoo's."""
    out, err = io.StringIO(), io.StringIO()
    budget = ("--max-parameters", "10", "--out", str(tmp_path / "out"))
    code = run(("search", "-t", teacher, *candidates, *budget), Environment(out, err, {}))
    assert code == Exit.USAGE
    assert said in err.getvalue()


def test_where_every_trial_fails_it_says_why(recipes, teacher, tmp_path):
    with pytest.raises(KdError, match=r"the first 3 trials failed.*not finite"):
        _search(recipes, teacher, tmp_path, "optim.lr=1e11", trials=9)


def test_a_method_without_a_teacher_is_refused(recipes, teacher, tmp_path):
    with pytest.raises(UsageError, match="none takes no teacher"):
        _search(recipes, teacher, tmp_path, methods=["none"])


# ---- what is taken -------------------------------------------------------------------------------

SIZES = {
    name: Candidate(name, size, 1.0) for name, size in (("s", 100), ("m", 1000), ("l", 10_000))
}


def _trial(number, student, accuracy, epochs=9):
    score = Score(epochs, accuracy, 1000, "runs/x", 1.0)
    return Trial(number, {"student": student}, "raced to the end", (score,))


def test_the_smallest_that_is_good_enough_is_taken():
    trials = [
        _trial(1, "l", 0.97),
        _trial(2, "m", 0.95),
        _trial(3, "s", 0.90),
        _trial(4, "m", 0.94),
    ]
    early = _trial(5, "s", 0.99, epochs=3)

    def taken(**gates):
        trial, met = choose([*trials, early], SIZES, GatesSection(**gates))
        return trial.number, met

    assert taken(min_accuracy=0.93) == (2, True)
    assert taken(min_accuracy=0.98) == (1, False)
    assert taken() == (1, True)
    # 0.95 of 1,000 images is surely above 0.93, and 0.97 above 0.95
    assert taken(min_accuracy=0.945, confident=True) == (1, True)
    assert frontier_of([*trials, early], SIZES) == (3, 2, 1)


def test_rungs_end_with_all_epochs():
    assert rungs(30, 3) == (3, 9, 27, 30)
    assert rungs(27, 3) == (3, 9, 27)
    assert rungs(2, 3) == (1, 2)
    assert rungs(1, 3) == (1,)


def test_candidates_are_spread_over_sizes_and_limits_are_kept():
    many = [Candidate(f"n{size}", size, None) for size in (10, 11, 12, 100, 1000, 990)]
    ordered = sorted(many, key=lambda each: each.parameters)
    assert [each.parameters for each in spread(ordered, 3)] == [10, 100, 1000]
    inside, outside = within(ordered, GatesSection(max_parameters=100))
    assert [each.parameters for each in inside] == [10, 11, 12, 100]
    assert [each.parameters for each in outside] == [990, 1000]


def test_patterns_are_those_of_networks():
    assert "resnet8" in named(["resnet?"])
    assert named(["mlp", "mlp"]) == ["mlp"]
    with pytest.raises(KdError, match="no network is called zzz"):
        named(["zzz*"])

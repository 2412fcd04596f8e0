"""Runs side by side: what differed, what came of it, and what to beware of."""

import pytest

from kdcli.errors import UsageError
from kdcli.report.tables.compare import Difference, compare, overlay, to_markdown
from kdcli.runs.read import Run
from tests.unit.report import fake_run


@pytest.fixture
def pair(run_folder, tmp_path):
    recipe = (
        fake_run.RECIPE.replace('"skd"', '"kd"').replace("temperature = 4.0", "alpha = 0.5")
        + 'name = "other"\n'
    )
    result = fake_run.summary(name="kd-1", method="kd", test=fake_run.measures(0.9611), gap=None)
    return [
        Run.load(run_folder),
        Run.load(
            fake_run.write_run(
                tmp_path / "kd-1", result=result, recipe=recipe, lines=fake_run.epoch_lines()
            )
        ),
    ]


def test_only_keys_that_differ_are_shown(pair):
    assert compare(pair).differences == (
        Difference("method.name", ("skd", "kd")),
        Difference("method.temperature", (4.0, None)),
        Difference("method.alpha", (None, 0.5)),
        Difference("gates.name", (None, "other")),
    )


def test_a_run_s_own_name_is_no_difference(run_folder, tmp_path):
    other = fake_run.write_run(
        tmp_path / "b", result=fake_run.summary(name="b"), recipe='name = "b"\n' + fake_run.RECIPE
    )
    comparison = compare([Run.load(run_folder), Run.load(other)])
    assert comparison.differences == ()
    assert "The recipes are the same." in to_markdown(comparison)


def test_several_teachers_are_told_apart(tmp_path):
    def run(name, *checkpoints):
        recipe = "".join(
            f'[[teacher]]\ncheckpoint = "{checkpoint}"\n' for checkpoint in checkpoints
        )
        return Run.load(fake_run.write_run(tmp_path / name, recipe=recipe))

    assert compare([run("a", "x"), run("b", "y")]).differences == (
        Difference("teacher.checkpoint", ("x", "y")),
    )
    two = compare([run("c", "x", "y"), run("d", "x", "z")])
    assert two.differences == (Difference("teacher.2.checkpoint", ("y", "z")),)


def test_numbers_stand_beside_their_intervals_and_n(pair):
    text = to_markdown(compare(pair)).replace("\N{NO-BREAK SPACE}", " ")
    assert "| accuracy, % | 97.2 | 96.1 |" in text
    assert "| 95 % interval, % | 95.5–98.9 | 94.1–98.1 |" in text
    assert "| entropy gap, nats | +0.081 | · |" in text
    assert "| n | 360 | 360 |" in text
    assert "the 95 % intervals overlap at n = 360" in text


def test_runs_that_were_not_measured_alike_are_called_out(pair, tmp_path):
    other = Run.load(
        fake_run.write_run(
            tmp_path / "c", result=fake_run.summary(test=fake_run.measures(0.9, n=1000))
        )
    )
    running = Run.load(fake_run.write_run(tmp_path / "d"))
    notes = compare([pair[0], other, running]).notes
    assert "d is not finished." in notes
    assert any(note.startswith("These runs were not measured alike") for note in notes)


def test_curves_are_drawn_over_each_other(pair, tmp_path):
    assert overlay(pair).title == "Validation accuracy per epoch"
    lines = fake_run.epoch_lines(val=False)
    mixed = [pair[0], Run.load(fake_run.write_run(tmp_path / "e", lines=lines))]
    plot = overlay(mixed)
    assert plot.title == "Training accuracy per epoch"
    assert "skd-cnn-small-digits-1" in plot.svg


def test_gaps_are_drawn_below_where_all_runs_probed_them(tmp_path):
    probed = fake_run.probed(fake_run.epoch_lines(4))
    runs = [Run.load(fake_run.write_run(tmp_path / name, lines=probed)) for name in ("a", "b")]
    plot = overlay(runs)
    assert plot.title.endswith(", and both gaps")
    _, entropy, free_energy = plot.canvas.get_axes()
    expected = {axis: [] for axis in ("entropy", "free_energy")}
    for number in range(5):  # before the first step, and after each epoch
        raw = fake_run.probe(number / 4).gaps[0]
        for axis, values in expected.items():
            values.append(getattr(raw, axis))
    for axes, values in ((entropy, expected["entropy"]), (free_energy, expected["free_energy"])):
        assert list(axes.get_lines()[1].get_xdata()) == [0, 1, 2, 3, 4]
        assert list(axes.get_lines()[1].get_ydata()) == pytest.approx(values)
    without = Run.load(fake_run.write_run(tmp_path / "c", lines=fake_run.epoch_lines(4)))
    assert len(overlay([*runs, without]).canvas.get_axes()) == 1


def test_one_run_alone_is_a_mistake(pair):
    with pytest.raises(UsageError, match="two runs"):
        compare(pair[:1])

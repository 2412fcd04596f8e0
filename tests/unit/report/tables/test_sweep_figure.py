"""A sweep as lines: what becomes x, what a line, and how sure each point is."""

from __future__ import annotations

import math

import pytest
from matplotlib.colors import to_hex

from kdcli.errors import UsageError
from kdcli.report.tables.sweep_figure import sweep
from kdcli.results.sweep import SweepTable, TableCell


def table(rows, columns, metrics=("test.accuracy",), values=(0.5, 0.6), paper=None):
    cells = [
        TableCell.of(row, column, metric, values, paper=paper)
        for row in rows
        for column in columns
        for metric in metrics
    ]
    return SweepTable("Title", tuple(rows), tuple(columns), tuple(metrics), tuple(cells), ())


def panels(drawn):
    return drawn.canvas.get_axes()


def lines(axes):
    """Those of our numbers by label."""
    return {line.get_label(): line for line in axes.get_lines() if line.get_linestyle() != "None"}


def test_columns_that_are_numbers_are_x_and_rows_the_lines():
    (axes,) = panels(sweep(table(["kd", "skd"], ["1", "2", "4"]), "method", "temperature"))
    assert set(lines(axes)) == {"kd", "skd"}
    assert list(lines(axes)["kd"].get_xdata()) == [1, 2, 4]
    assert axes.get_xlabel() == "temperature"
    assert axes.get_xscale() == "linear"


def test_rows_that_are_numbers_are_x_where_columns_are_names():
    (axes,) = panels(sweep(table(["5", "200", "2000"], ["small", "large"]), "images", "teacher"))
    assert set(lines(axes)) == {"small", "large"}
    assert (axes.get_xlabel(), axes.get_xscale()) == ("images", "log")


def test_names_stand_in_their_order():
    (axes,) = panels(sweep(table(["kd"], ["resnet20", "resnet8"]), "method", "teacher"))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["resnet20", "resnet8"]


def test_a_number_at_several_temperatures_is_drawn_over_them():
    entropies = ["test.entropy@4", "test.entropy", "test.entropy@20"]
    found = table(["a", "b"], [""], ["test.accuracy", *entropies])
    (axes,) = panels(sweep(found, "model", ""))  # without a panel for accuracy, which has none
    assert axes.get_xlabel() == "temperature"
    assert list(lines(axes)["a"].get_xdata()) == [1, 4, 20]


def test_each_metric_has_a_panel_in_its_unit():
    top, bottom = panels(
        sweep(table(["kd"], ["1", "2"], ["test.accuracy", "gap.entropy"]), "method", "t")
    )
    assert list(lines(top)["kd"].get_ydata()) == pytest.approx([55, 55])
    assert list(lines(bottom)["kd"].get_ydata()) == pytest.approx([0.55, 0.55])


def test_the_band_is_students_interval_over_seeds():
    (axes,) = panels(sweep(table(["kd"], ["1", "2"], values=(0.5, 0.6, 0.7)), "method", "t"))
    (band,) = axes.collections
    low, high = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    # t of 2 degrees of freedom at 97.5 % is 4.3027
    assert (high - low) / 2 == pytest.approx(100 * 4.3027 * 0.1 / math.sqrt(3), rel=1e-4)


def test_one_seed_has_no_band():
    (axes,) = panels(sweep(table(["kd"], ["1", "2"], values=(0.5,)), "method", "t"))
    assert not axes.collections


def test_published_numbers_are_hollow():
    (axes,) = panels(sweep(table(["kd"], ["1", "2"], paper=0.9), "method", "t"))
    (hollow,) = [line for line in axes.get_lines() if line.get_markerfacecolor() == "none"]
    assert list(hollow.get_ydata()) == [90, 90]
    assert hollow.get_label() == "kd, paper"


def test_many_lines_have_the_colour_of_the_first_part_of_their_names():
    rows = [f"{teacher}, digit {digit}" for teacher in ("small", "large") for digit in range(5)]
    (axes,) = panels(sweep(table(rows, ["3", "9"]), "teacher, missing", "temperature"))
    assert len({to_hex(line.get_color()) for line in axes.get_lines()}) == 2
    _, labels = axes.get_legend_handles_labels()
    assert labels == ["small", "large"]


def test_a_sweep_without_a_run_is_refused():
    with pytest.raises(UsageError, match="no run of this sweep is finished"):
        sweep(table(["kd"], ["1"], values=(), paper=0.5), "method", "t")

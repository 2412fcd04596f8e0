"""A sweep as a table: means, deviations, the paper beside them, and never a zero where nothing was
run.
"""

import csv
import io
import re
import statistics
from dataclasses import replace

import pytest
import torch

from kdcli.analysis.metrics import right_answers
from kdcli.errors import UsageError
from kdcli.recipe.sweep.cells import PaperValue, TableSection
from kdcli.report.tables import metrics
from kdcli.report.tables.formats import latex, to_csv, to_html, to_latex, to_markdown
from kdcli.report.tables.sweep import tabulate
from kdcli.results.gap import GapAt
from kdcli.results.measures import EnergyAt
from tests.unit.report import fake_run

LAYOUT = TableSection(rows=("method",), columns=("pair",))
ACCURACIES = {
    ("kd", "A_1"): (0.71, 0.70, 0.72),
    ("skd", "A_1"): (0.75, 0.74, 0.76),
    ("kd", "B|2"): (0.60, 0.61, 0.62),
}


def results(accuracies=ACCURACIES, **changes):
    return [
        (
            {"method": method, "pair": pair, "seed": str(seed)},
            fake_run.summary(seed=seed, test=fake_run.measures(value, n=10000), **changes),
        )
        for (method, pair), values in accuracies.items()
        for seed, value in enumerate(values)
    ]


@pytest.fixture
def table():
    planned = [*results(), ({"method": "skd", "pair": "B|2", "seed": "0"}, None)]
    paper = [
        PaperValue(
            row="skd",
            column="A_1",
            metric="test.accuracy",
            value=0.7543,
            source="2010.07485, table 2",
        ),
        PaperValue(row="crd", column="A_1", metric="test.accuracy", value=0.7511),
    ]
    return tabulate(planned, LAYOUT, paper, title="Digits & co", command="kd table digits.toml")


def test_cells_hold_the_mean_and_the_sample_deviation(table):
    cell = table.cells["kd", "A_1", "test.accuracy"]
    assert cell.mean == pytest.approx(0.71)
    assert (
        cell.sd == pytest.approx(statistics.stdev(ACCURACIES["kd", "A_1"])) == pytest.approx(0.01)
    )
    assert cell.n == 3


def test_the_paper_stands_beside_ours(table):
    text = to_markdown(table)
    assert "| method | A_1 | paper | Δ | B\\|2 |" in text
    assert "| skd | **75.00 ± 1.00** | 75.43 | −0.43 | · |" in text
    assert "| crd | · | 75.11 | · | · |" in text


def test_a_missing_cell_is_a_dot_and_never_a_zero(table):
    cell = table.cells["skd", "B|2", "test.accuracy"]
    assert (cell.mean, cell.sd, cell.difference, cell.missing) == (None, None, None, 1)
    row = next(
        row
        for row in csv.DictReader(io.StringIO(to_csv(table)))
        if (row["row"], row["column"]) == ("skd", "B|2")
    )
    assert (row["mean"], row["sd"], row["n"]) == ("", "", "0")


def test_one_run_has_no_deviation():
    table = tabulate(results({("kd", "A"): (0.7,), ("skd", "A"): (0.7, 0.72)}), LAYOUT)
    text = to_markdown(table).replace("\N{NO-BREAK SPACE}", " ")
    assert "| kd | 70.00 (n = 1) |" in text
    assert "71.00 ± 1.41 (n = 2)" in text
    assert "n = 1 to 2 seeds a cell" in text


def test_what_is_better_by_more_than_chance_is_marked_among_those_that_compete():
    clear = {
        ("kd", "A"): (0.700, 0.720, 0.710),
        ("skd", "A"): (0.751, 0.770, 0.760),
        ("kd", "B"): (0.600, 0.610, 0.620),
    }
    down = tabulate(results(clear), TableSection(rows=("method",), columns=("pair",)))
    assert down.best == {("skd", "A", "test.accuracy")}  # B has nobody to compete with
    across = tabulate(results(clear), TableSection(rows=("pair",), columns=("method",)))
    assert across.best == {("A", "skd", "test.accuracy")}
    alone = tabulate(results(clear), TableSection(rows=("pair",), over=("method", "seed")))
    assert [each.other_row for each in alone.data.comparisons] == ["B"]
    # as printed once in bold: 18.58 ± 2.27 beside 18.18 ± 2.62
    noise = {("kd", "A"): (0.160, 0.190, 0.207), ("skd", "A"): (0.157, 0.177, 0.211)}
    assert not tabulate(results(noise), LAYOUT).best


def test_the_note_says_what_bold_rests_on(table):
    def said(values, **more):
        notes = tabulate(results(values), LAYOUT, **more).data.notes
        return next(note for note in notes if "bold" in note.lower()).replace("\xa0", " ")

    assert said({("kd", "A"): (0.70, 0.72, 0.71), ("skd", "A"): (0.75, 0.77, 0.765)}) == (
        "Bold: better than every other of its column by t-tests over seeds, 5 % in all for "
        "1 comparison a metric (Holm)."
    )
    assert said({("kd", "A"): (0.70, 0.72, 0.71), ("skd", "A"): (0.69, 0.74, 0.765)}).startswith(
        "Nothing is bold: no cell is better"
    )
    alone = said({("kd", "A"): (0.70,), ("skd", "A"): (0.75,)})
    assert alone == "Nothing is bold: what one seed shows cannot be told from chance."
    assert not [note for note in tabulate([], LAYOUT).data.notes if "bold" in note.lower()]


def answers(hits, n=400):
    """Right answers to the first `hits` of n images, as a run keeps them."""
    logits = torch.tensor([[1.0, 0.0]]).repeat(n, 1)
    targets = (torch.arange(n) >= hits).long()
    shared = right_answers(logits, targets)
    return replace(shared, labels_sha256="ab" * 32)


def test_over_images_one_seed_is_enough_and_both_sources_of_chance_count():
    one = {("kd", "A"): (0.70,), ("skd", "A"): (0.80,)}
    marked = tabulate(results(one), LAYOUT, right=[answers(280), answers(320)])
    assert marked.best == {("skd", "A", "test.accuracy")}
    (pair,) = marked.data.comparisons
    assert pair.p_seeds is None
    assert pair.p_images < 1e-6
    # two images of 400 are chance, whatever the seeds say
    same = {("kd", "A"): (0.7, 0.7), ("skd", "A"): (0.705, 0.705)}
    few = tabulate(
        results(same), LAYOUT, right=[answers(280), answers(280), answers(282), answers(282)]
    )
    (pair,) = few.data.comparisons
    assert pair.p_seeds < 0.001
    assert 0.05 < pair.p_images == pair.p_value
    assert not few.best


def test_differences_are_shown_where_they_are_asked_for(table):
    shown = replace(table, compared=True)
    text = to_markdown(shown).replace("\xa0", " ")
    assert "### The best of each line beside the others" in text
    assert "| accuracy, % | **skd, A_1** | kd, A_1 | +4.00 (+4.00 to +4.00) | " in text
    assert "beside the others" not in to_markdown(table)
    (row,) = csv.DictReader(io.StringIO(to_csv(shown)))
    assert (row["row"], row["other_row"], row["stands_out"]) == ("skd", "kd", "True")
    assert float(row["difference"]) == pytest.approx(0.04)


def test_less_is_better_for_errors_and_nearest_to_zero_for_gaps():
    assert max([0.3, 0.1, 0.2], key=metrics.closeness("test.ece")) == 0.1
    assert max([-0.3, 0.1, 0.2], key=metrics.closeness("gap.entropy")) == 0.1
    assert max([0.3, 0.1, 0.2], key=metrics.closeness("test.accuracy")) == 0.3


def test_the_page_says_what_its_numbers_rest_on(table):
    for text in (to_markdown(table), to_html(table), to_latex(table).replace("~", " ")):
        plain = text.replace("\N{NO-BREAK SPACE}", " ").replace("\\", "")
        assert "test split, n = 10 000 images (digits), last epoch" in plain
        assert "n = 3 seeds a cell" in plain
        assert "1 run of 10 has no result yet" in plain
        assert "2010.07485, table 2" in plain
        assert "kd table digits.toml" in plain


def test_csv_has_every_digit(table):
    rows = {(row["row"], row["column"]): row for row in csv.DictReader(io.StringIO(to_csv(table)))}
    cell = table.cells["skd", "A_1", "test.accuracy"]
    row = rows["skd", "A_1"]
    assert float(row["mean"]) == cell.mean
    assert float(row["sd"]) == cell.sd
    assert float(row["difference"]) == cell.mean - 0.7543
    assert [float(value) for value in row["values"].split()] == list(ACCURACIES["skd", "A_1"])


def test_latex_is_escaped_and_uses_booktabs(table):
    text = to_latex(table)
    assert "Digits \\& co" in text
    assert "method & A\\_1 & paper & $\\Delta$ & B\\textbar{}2 \\\\" in text
    assert "\\textbf{75.00 $\\pm$ 1.00}" in text
    assert text.count("\\toprule") == text.count("\\midrule") == text.count("\\bottomrule") == 1
    assert (
        len(
            {
                len(re.findall(r"(?<!\\)&", line))
                for line in text.splitlines()
                if line.endswith("\\\\")
            }
        )
        == 1
    )
    assert latex("50% of a_b\\c{} −1") == r"50\% of a\_b\textbackslash{}c\{\} $-$1"


def test_html_escapes_and_fetches_nothing(table):
    text = to_html(table)
    assert "<strong>75.00 ± 1.00</strong>" in text
    assert "Digits &amp; co" in text
    assert "http" not in text


def test_without_an_axis_for_columns_metrics_are_the_columns():
    table = tabulate(
        results(),
        TableSection(rows=("method",), metrics=("test.accuracy", "gap.entropy", "wall_seconds")),
    )
    text = to_markdown(table)
    assert "| method | accuracy, % | entropy gap, nats | wall time, s |" in text
    assert "0.081" in text


def test_a_mistyped_metric_is_named_with_its_neighbour():
    with pytest.raises(UsageError, match=r"test\.acuracy") as caught:
        tabulate(results(), TableSection(rows=("method",), metrics=("test.acuracy",)))
    assert "test.accuracy" in caught.value.hint


def test_metrics_lead_to_the_numbers_of_a_run():
    summary = fake_run.summary(val=None)
    assert metrics.value(summary, "test.accuracy") == 0.9722
    assert metrics.value(summary, "gap.free_energy") == 0.04
    assert metrics.value(summary, "val.accuracy") is None
    assert metrics.value(None, "test.ece") is None
    assert metrics.value(fake_run.summary(wall_seconds=float("nan")), "wall_seconds") is None


@pytest.mark.parametrize("write", [to_markdown, to_latex, to_html])
def test_several_metrics_with_columns_are_a_grid_each(write):
    layout = TableSection(
        rows=("method",), columns=("pair",), metrics=("test.accuracy", "test.ece")
    )
    text = write(tabulate(results(), layout))
    accuracy, ece = text.index("Accuracy, "), text.index("ECE")
    assert accuracy < text.index("75.00", accuracy) < ece
    assert text.count("kd") >= 2


def test_the_aligned_gap_is_the_raw_one_where_the_loss_sees_raw_logits():
    raw, aligned = GapAt(1.0, 0.5, 2.0), GapAt(1.0, 0.1, 0.2, aligned=True)
    other = GapAt(4.0, 9.0, 9.0, aligned=True)
    assert metrics.value(fake_run.summary(gaps=(raw, other)), "aligned_gap.entropy") == 0.5
    assert metrics.value(fake_run.summary(gaps=(raw, other, aligned)), "aligned_gap.entropy") == 0.1
    assert metrics.value(fake_run.summary(gaps=()), "aligned_gap.entropy") is None


def test_the_page_says_on_which_images_its_numbers_were_measured():
    def said(*shown, data="cifar100"):
        found = [(cell, summary and replace(summary, data=data)) for cell, summary in results()]
        notes = tabulate(
            found, TableSection(rows=("method",), columns=("pair",), metrics=shown)
        ).data.notes
        return " ".join(notes).replace("\N{NO-BREAK SPACE}", " ")

    assert "on the test split, n = 10 000 images" in said("test.accuracy")
    assert "held out of the training set, n = 143 images" in said("val.accuracy")
    assert "test split" not in said("val.accuracy")
    assert "Measured on tokens held out of the training set" in said("val.accuracy", data="text")


def test_entropies_and_gaps_at_another_temperature():
    summary = fake_run.summary(
        energies=(EnergyAt(1.0, 0.1, 11.0), EnergyAt(4.0, 1.2, 9.0)),
        teacher_energies=(EnergyAt(4.0, 1.0, 9.5),),
    )
    assert metrics.value(summary, "test.entropy@4") == 1.2
    assert metrics.value(summary, "test.free_energy@4.0") == 9.0
    assert metrics.value(summary, "teacher.test.entropy@4") == 1.0
    assert metrics.value(summary, "gap.entropy@4") == 0.31
    # at 4 this run has no gap of aligned logits
    assert metrics.value(summary, "aligned_gap.entropy@1") == 0.02
    assert metrics.value(summary, "test.entropy@1") == summary.test.entropy
    assert metrics.value(summary, "test.entropy@2") is None
    assert metrics.value(summary, "reference.test.entropy@4") is None
    assert metrics.label("gap.entropy@4") == "entropy gap, nats, τ = 4"
    assert max([0.3, 0.1], key=metrics.closeness("test.entropy@4")) == 0.1


def test_the_teacher_is_the_only_one_or_the_reference():
    teacher = fake_run.teacher()
    assert metrics.value(fake_run.summary(), "teacher.test.accuracy") == teacher.test.accuracy
    alone = fake_run.summary(teachers=(), reference=teacher)
    assert metrics.value(alone, "teacher.test.accuracy") == teacher.test.accuracy
    several = fake_run.summary(teachers=(teacher, teacher))
    assert metrics.value(several, "teacher.test.accuracy") is None


def test_a_term_of_the_loss_and_one_that_no_run_has():
    changes = {"train_loss": 1.5, "train_losses": {"ce": 0.5, "kd": 1.0}}
    layout = TableSection(
        rows=("method",), columns=("pair",), metrics=("train_loss", "train_losses.kd")
    )
    table = tabulate(results(**changes), layout)
    assert table.cells["kd", "A_1", "train_loss"].mean == 1.5
    assert table.cells["kd", "A_1", "train_losses.kd"].mean == 1.0
    wrong = TableSection(rows=("method",), columns=("pair",), metrics=("train_losses.kdd",))
    with pytest.raises(UsageError, match="no run of this table has a loss term 'kdd'") as caught:
        tabulate(results(**changes), wrong)
    assert caught.value.hint == "there are ce, kd; train_loss is their sum"

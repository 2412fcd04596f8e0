"""What a report says of a class that nobody showed to the student: at the top of every page, and in
a table of its own.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from kdcli import formatting
from kdcli.recipe.sweep.cells import TableSection
from kdcli.report.findings.baseline import find_baseline
from kdcli.report.page.build import build
from kdcli.report.tables.compare import compare
from kdcli.report.tables.formats import to_markdown
from kdcli.report.tables.sweep import tabulate
from kdcli.results import metric_paths
from kdcli.results.intervals import Interval
from kdcli.results.measures import Excluded, ExcludedClass
from kdcli.results.run import RunResult
from kdcli.runs.read import Run
from tests.unit.report import fake_run

SEVEN = ExcludedClass("seven", 7, 36, 0.75, Interval(0.589, 0.862), 0.972)
THREE = ExcludedClass("three", 3, 40, 0.10, Interval(0.040, 0.231), 0.950)
ONE = Excluded((SEVEN,), 36, 0.75, Interval(0.589, 0.862), 0.972)
BOTH = Excluded((THREE, SEVEN), 76, 0.408, Interval(0.304, 0.520), 0.961)
GONE = Excluded((ExcludedClass("nine", 9, 0, None, None),), 0, None, None)
SENTENCE = (
    "Of class seven the student saw no training image; it is right on 75.0 % of 36 test images "
    "(teacher: 97.2 %)."
)
RECIPE = fake_run.RECIPE.replace(
    "val_fraction",
    (
        'exclude_classes = ["seven"]\nper_class = 50\nselect = "entropy"\nselect_temperature = '
        "9.0\nval_fraction"
    ),
)


def write(folder, excluded, recipe=RECIPE, **changes):
    result = fake_run.summary(name=folder.name, excluded=excluded, **changes)
    return fake_run.write_run(
        folder,
        result=result,
        details=fake_run.analysis(),
        lines=fake_run.epoch_lines(),
        recipe=recipe,
    )


def pages(folder) -> dict[str, str]:
    build(folder)
    names = ("report.html", "report.md", "MODEL_CARD.md")
    return {
        name: (folder / name).read_text(encoding="utf-8").replace(formatting.NBSP, " ")
        for name in names
    }


def test_every_page_begins_with_the_missing_class(tmp_path):
    found = pages(write(tmp_path / "run", ONE))
    for name, text in found.items():
        assert SENTENCE in text.split("</header>")[0].split("## ")[0], name
    assert (
        "<dt>on missing class seven</dt><dd><b>75.0 %</b><small>58.9–86.2 %, n = 36</small>"
        in found["report.html"]
    )
    assert (
        '"name": "accuracy on class seven, without a training image (test, n = 36, seed 0)"'
        in found["MODEL_CARD.md"]
    )


def test_a_table_shows_each_class_and_for_what_it_is_taken(tmp_path):
    found = pages(write(tmp_path / "run", BOTH))
    row = next(line for line in found["report.md"].splitlines() if line.startswith("| seven"))
    counts = fake_run.analysis().confusion[7]
    wrong = sorted(
        ((count, number) for number, count in enumerate(counts) if count and number != 7),
        key=lambda pair: (-pair[0], pair[1]),
    )
    taken = ", ".join(f"{fake_run.CLASSES[number]} ({count})" for count, number in wrong[:3])
    assert row == f"| seven | 36 | 75.0 % | 58.9–86.2 | 97.2 % | {taken} |"
    assert "| together | 76 | 40.8 % | 30.4–52.0 | 96.1 % |  |" in found["report.md"]
    assert "Of classes three and seven the student saw no training image" in found["report.md"]
    assert re.findall(r"^## (.*)$", found["report.md"], re.MULTILINE)[:3] == [
        "Accuracy",
        "Missing classes",
        "Gap to the teacher",
    ]
    assert "| seven |" in found["MODEL_CARD.md"]


def test_pages_say_on_what_was_trained(tmp_path):
    found = pages(write(tmp_path / "run", ONE))
    left = (
        "no image of class seven; 50 images a class, highest entropy of the teacher's soft "
        "labels at τ = 9"
    )
    assert f"The training set was restricted: {left}." in found["report.md"]
    assert f"- trained on: {left}" in found["MODEL_CARD.md"]


def test_a_run_on_all_classes_has_no_such_section(tmp_path):
    text = pages(write(tmp_path / "run", None, recipe=fake_run.RECIPE))["report.md"]
    assert "issing" not in text
    assert "restricted" not in text


def test_a_class_without_test_images_is_no_number(tmp_path):
    text = pages(write(tmp_path / "run", GONE))["report.md"]
    assert re.search(r"^\| nine \| 0 \| · \| · \| · \|", text, re.MULTILINE)
    assert "it is right on" not in text


def test_a_summary_re_reads_as_it_was_written(tmp_path):
    for number, excluded in enumerate((None, ONE, BOTH, GONE)):
        run = Run.load(write(tmp_path / str(number), excluded, per_class={"seven": 0.75}))
        assert run.summary.excluded == excluded
        assert run.summary.per_class == {"seven": 0.75}


def test_it_is_a_metric_of_tables_and_comparisons(tmp_path):
    results = [
        (
            {"method": "kd", "class": item.name},
            fake_run.summary(
                test=fake_run.measures(0.9, n=10000),
                excluded=replace(ONE, n=item.n, accuracy=item.accuracy),
            ),
        )
        for item in (SEVEN, THREE)
    ]
    text = to_markdown(
        tabulate(
            results,
            TableSection(rows=("class",), columns=("method",), metrics=("excluded.accuracy",)),
        )
    )
    assert "| seven | 75.0 |" in text
    assert "| three | 10.0 |" in text
    assert "Numbers: accuracy on the missing class, %." in text
    assert "The missing class has 36 to 40 of these images." in text
    runs = [
        Run.load(write(tmp_path / name, excluded)) for name, excluded in (("a", ONE), ("b", None))
    ]
    assert {metric.path: metric.values for metric in compare(runs).metrics}[
        "excluded.accuracy"
    ] == (0.75, None)


def test_only_single_numbers_are_metrics():
    assert "excluded.teacher_accuracy" in metric_paths.paths()
    assert not [
        path
        for path in metric_paths.paths()
        if path.startswith(("per_class", "excluded.classes", "teachers"))
    ]


def test_a_baseline_on_other_images_is_none(tmp_path):
    ours = write(tmp_path / "ours", None, recipe=fake_run.RECIPE)
    theirs = fake_run.write_baseline(tmp_path / "theirs")
    for theirs_digest, found in (("aa", True), ("bb", False)):
        for folder, digest in ((ours, "aa"), (theirs, theirs_digest)):
            text = (folder / "environment.json").read_text()
            (folder / "environment.json").write_text(
                re.sub(
                    r'("positions_sha256": "\w+", )?"fingerprint"',
                    f'"positions_sha256": "{digest}", "fingerprint"',
                    text,
                )
            )
        assert (find_baseline(Run.load(ours)) is not None) is found


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["7"], "7"),
        (["3", "7"], "3 and 7"),
        (list("137"), "1, 3 and 7"),
        (list("13579"), "1, 3, 5 and 2 more"),
    ],
)
def test_names_in_a_sentence(names, text):
    assert formatting.listed(names) == text


def test_a_result_without_the_new_keys_still_reads(tmp_path):
    """Runs that an earlier kd wrote."""
    folder = write(tmp_path / "run", None)
    path = folder / "summary.json"
    path.write_text(re.sub(r'"(per_class|excluded)": (\{\}|null), ', "", path.read_text()))
    assert '"excluded"' not in path.read_text()
    assert isinstance(Run.load(folder).summary, RunResult)

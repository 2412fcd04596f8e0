"""Every method as a user runs it: from a recipe to a checkpoint, of which the run's report and
every command that measures say the same numbers, on a few digits.
"""

from __future__ import annotations

import functools
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import to_jsonable_python

from kdcli import catalog
from kdcli.cli.app import run as main
from kdcli.cli.console import Environment
from kdcli.jobs import analyze_gap, distill, evaluate, train_teacher
from kdcli.jobs.events import Prepared
from kdcli.recipe.sweep.cells import TableSection
from kdcli.report.tables.compare import compare
from kdcli.report.tables.sweep import tabulate
from kdcli.results.gap import GapAt, GapReport
from kdcli.results.measures import Measures
from kdcli.results.run import RunResult, TeacherSummary
from kdcli.runs.read import Run

NAMES = catalog.names("method")
GROUPS = [[0, 6, 8, 9], [1, 4, 7], [2, 3, 5]]  # digits that look alike
SHORT = {
    "data.train_limit": 100,
    "train.epochs": 2,
    "train.batch_size": 32,
    "report.html": False,
    "report.latency": False,
    "runtime.threads": 1,
}

# what a method needs beyond a teacher and a student
NEEDS: dict[str, dict[str, Any]] = {
    "fsp": {"student.name": "cnn-large"},  # equal channels
    "kdsvd": {"student.name": "cnn-large"},
    "deit": {"student.name": "vit-mini", "student.distillation_token": True},
    "kd_rel": {"method.superclasses": GROUPS},
    "kd_pt_rel": {"method.superclasses": GROUPS},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def teacher(folder) -> str:
    """A teacher with checkpoints from along its training."""
    run = train_teacher(
        out=folder, model="cnn-large", data="digits", overrides={**SHORT, "train.keep_every": 1}
    )
    assert run is not None
    return run.run


@pytest.fixture(scope="module")
def averaging(folder) -> str:
    """A teacher whose last layer reads the average of its last map."""
    run = train_teacher(out=folder, model="resnet8", data="digits", overrides=SHORT)
    assert run is not None
    return run.run


@pytest.fixture(scope="module")
def transformer(folder) -> str:
    """A teacher that has tokens."""
    options = {**SHORT, "model.width": 96}
    run = train_teacher(out=folder, model="vit-mini", data="digits", overrides=options)
    assert run is not None
    return run.run


# methods that are taught by one of these, and their student
OTHER_TEACHERS = {"cat_kd": ("averaging", "resnet8"), "vitkd": ("transformer", "vit-mini")}


def shortened(name: str) -> dict[str, Any]:
    """Options that make a method's extra stages as short as its main one."""
    own = catalog.options_class(catalog.entry("method", name)).model_fields
    return {f"method.{key}": 1 for key in own if key.endswith("_epochs") and key != "kd_stop_epoch"}


@pytest.mark.parametrize("name", NAMES)
def test_it_distils_evaluates_and_explains(name, folder, request):
    fixture, student = OTHER_TEACHERS.get(name, ("teacher", "cnn-small"))
    teacher = request.getfixturevalue(fixture)
    most = (catalog.entry("method", name).facts.get("teachers") or (1, 1))[1]
    least = (catalog.entry("method", name).facts.get("teachers") or (1, 1))[0]
    # the mean of several that are the same is that one
    aliases = {} if most == 0 else {"teacher": [teacher] * max(least, 1)}
    options = {
        **SHORT,
        **shortened(name),
        **NEEDS.get(name, {}),
        "report.reference": teacher if most == 0 else None,
    }
    overrides = {key: value for key, value in options.items() if value is not None}
    overrides.setdefault("student.name", student)
    run = distill(out=folder, method=name, data="digits", overrides=overrides, **aliases)
    assert run is not None
    assert run.gap is not None
    # the run measures at the temperature of its method too
    asked = tuple(dict.fromkeys(at.temperature for at in run.gaps))
    report = analyze_gap(teacher, [run.run], temperatures=asked, explain=False)
    agree(run, report, (run.reference or run.teachers[0]))


OTHERWISE: dict[str, dict[str, Any]] = {
    "the best epoch, of restricted data": {
        "data.val_fraction": 0.2,
        "data.train_limit": None,
        "data.exclude_classes": [3],
        "train.select": "best",
        "seed": 3,
    },
    "a sphere of norm 1": {"method.align": "unit"},
    "a sphere of a given radius": {"method.align": "constant", "method.multiplier": 3.0},
    "an average of the weights": {"train.ema": 0.9},
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_options_change_what_is_measured_alike_everywhere(what, teacher, folder):
    options = {**SHORT, "student.name": "cnn-small", **OTHERWISE[what]}
    overrides = {key: value for key, value in options.items() if value is not None}
    run = distill(out=folder, method="skd", data="digits", overrides=overrides, teacher=teacher)
    assert run is not None
    agree(run, analyze_gap(teacher, [run.run], explain=False), run.teachers[0])


def test_classes_are_related_as_the_student_was_taught_it(teacher, folder):
    options = {
        **SHORT,
        "student.name": "cnn-small",
        "method.superclasses": [["0", 6, 8, "9"], [1, 4, 7], [2, 3, 5]],
    }
    said: list[Prepared] = []
    run = distill(
        out=folder,
        method="kd_pt_rel",
        data="digits",
        overrides={**options, "report.html": "later"},
        teacher=teacher,
        listeners=[lambda event: said.append(event) if isinstance(event, Prepared) else None],
    )
    assert run is not None
    assert "superclasses: 0, 6, 8, 9; 1, 4, 7; 2, 3, 5" in said[0].notes
    assert not (Path(run.run) / "report.html").exists()
    known = Run.load(run.run).analysis
    assert known is not None
    found = analyze_gap(teacher, [run.run], bootstrap=5)
    for report in (known.gap, found):
        assert report is not None
        assert report.explanation is not None
        assert report.explanation.relations is not None
        assert report.explanation.relations.superclass == (0,) * 4 + (1,) * 3 + (2,) * 3


def test_several_teachers_are_the_one_that_they_were_to_the_student(teacher, folder):
    other = train_teacher(
        out=folder, model="cnn-small", data="digits", overrides={**SHORT, "seed": 5}
    )
    assert other is not None
    overrides = {
        **SHORT,
        "student.name": "cnn-small",
        "teacher": [
            {"checkpoint": teacher, "weight": 3.0},
            {"checkpoint": other.run, "weight": 1.0},
        ],
    }
    run = distill(out=folder, method="kd", data="digits", overrides=overrides)
    assert run is not None
    assert [known.weight for known in run.teachers] == [0.75, 0.25]
    code, document = ask("analyze-gap", "--student", run.run)
    assert code == 0
    assert document["shares"] == [0.75, 0.25]
    known = Run.load(run.run).analysis
    assert known is not None
    assert known.gap is not None
    for ours, theirs in zip(document["pairs"], plain(known.gap.pairs), strict=True):
        assert ours == theirs
    assert document["teacher"]["measures"] == plain(known.gap.teacher.measures)
    assert [plain(item.measures) for item in evaluate([teacher, other.run]).evaluations] == [
        plain(item.test) for item in run.teachers
    ]


def test_what_taught_a_student_is_what_its_run_says_or_nothing(teacher, folder, tmp_path):
    shutil.copytree(teacher, tmp_path / "moving")
    taught = {**SHORT, "student.name": "cnn-small", "report.temperatures": [1.0, 2.0]}
    run = distill(
        out=folder, method="kd", data="digits", overrides=taught, teacher=str(tmp_path / "moving")
    )
    alone = distill(
        out=folder,
        method="none",
        data="digits",
        overrides={**taught, "report.reference": teacher},
    )
    assert run is not None
    assert alone is not None
    for student in (run, alone):
        code, document = ask("analyze-gap", "--student", student.run, "--bootstrap", "5")
        # and kd's own temperature, at which the run was measured as well
        own = [4.0] if student is run else []
        assert (code, document["temperatures"]) == (0, [1.0, 2.0, *own])
        assert document["pairs"][0]["at"][0]["entropy"]["value"] == student.gap.entropy
    code, document = ask("analyze-gap", "--student", run.run, "--student", alone.run)
    assert (code, len(document["others"])) == (0, 1)

    # another network in the teacher's place is not what taught it
    shutil.copy(run.checkpoint, tmp_path / "moving" / "model.safetensors")
    code, document = ask("analyze-gap", "--student", run.run)
    assert (code, document) == (2, None)
    _, document = ask("analyze-gap", "-t", run.run, "--student", run.run, "--bootstrap", "5")
    assert any("was not taught by" in warning for warning in document["warnings"])


def ask(*argv: str) -> tuple[int, Any]:
    """An exit code, and the data of the JSON document."""
    out = io.StringIO()
    code = main([*argv, "--json", "-q"], Environment(out, io.StringIO(), {}))
    return code, json.loads(out.getvalue())["data"]


def plain(value: Any) -> Any:
    """A record as JSON has it."""
    return json.loads(json.dumps(to_jsonable_python(value)))


@functools.cache
def evaluated(path: str) -> Measures:
    """What evaluate says of a run or a checkpoint; of the teacher that most methods have, once."""
    return evaluate([path]).evaluations[0].measures


def agree(run: RunResult, report: GapReport, teacher: TeacherSummary) -> None:
    """The run's summary and report, and what evaluate, analyze-gap, compare and table say of it,
    are the same to the last digit.
    """
    assert (evaluated(run.run), evaluated(teacher.checkpoint)) == (run.test, teacher.test)

    raw = {student.label: student.measures for student in report.students if student.form == "raw"}
    assert (*raw.values(), report.teacher.measures) == (run.test, teacher.test)
    gaps = [
        GapAt(at.temperature, at.entropy.value, at.free_energy.value, pair.form == "aligned")
        for pair in report.pairs
        for at in pair.at
    ]
    assert gaps == list(run.gaps)
    page = Run.load(run.run)
    assert page.analysis is not None
    assert page.analysis.gap is not None
    assert page.analysis.gap.pairs == report.pairs
    assert page.analysis.calibration["student"].ece == run.test.ece
    assert page.analysis.calibration["teacher"].ece == report.teacher.measures.ece

    columns = {metric.path: metric.values[0] for metric in compare([page, page]).metrics}
    known = {
        **{f"test.{key}": getattr(run.test, key) for key in ("accuracy", "top5", "nll", "ece")},
        "test.entropy": run.test.entropy,
        "gap.entropy": gaps[0].entropy,
        "gap.free_energy": gaps[0].free_energy,
    }
    assert {key: columns[key] for key in known} == known
    layout = TableSection(rows=("method",), columns=(), metrics=tuple(known))
    cells = tabulate([({"method": run.method}, page.summary)], layout).data.cells
    assert {cell.metric: cell.mean for cell in cells} == known

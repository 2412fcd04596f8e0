"""What analyze-gap shows and writes of its explanations: screen, JSON, CSV and figures of one
analysis say the same.
"""

from __future__ import annotations

import csv
import functools
import io
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from kdcli import formatting
from kdcli.cli.app import run
from kdcli.cli.commands.schema import schema_of
from kdcli.cli.console import Environment
from tests.cli.conftest import Answer
from tests.cli.schema_check import problems

SMALL = ("--epochs", "2", "-s", "report.html=false", "-q")


def call(*argv: str) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    return Answer(run(argv, Environment(out, err)), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """runs/large and runs/small, each with a student, in the folder that the tests of this module
    work in.
    """
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, hidden in (("large", "[64]"), ("small", "[16]")):
            assert (
                call(
                    "train-teacher",
                    "--model",
                    "mlp",
                    "-s",
                    f"model.hidden={hidden}",
                    "--name",
                    name,
                    *SMALL,
                ).code
                == 0
            )
            student = ("--student", "mlp", "-s", "student.hidden=[12]", "--name", f"from-{name}")
            assert call("distill", "-t", f"runs/{name}", *student, *SMALL).code == 0
        yield folder


@functools.cache  # of the folder of the module
def gap(*argv: str) -> Answer:
    answer = call("analyze-gap", "--bootstrap", "20", *argv)
    assert answer.code == 0, answer.err
    return answer


PAIRS = (
    "-t",
    "runs/large",
    "-t",
    "runs/small",
    "--student",
    "runs/from-large",
    "--student",
    "runs/from-small",
)
# each of these takes seconds: several tests look at what it says
ALONE = ("-t", "runs/large", "--deep", "-v", "--json")
PAIR = (
    *("-t", "runs/large", "--student", "runs/from-large", "--deep"),
    *("--html", "pages/gap.html", "--json"),
)
ALL = (
    *(*PAIRS, "--deep", "--temperature", "1,4,9"),
    *("--csv", "gap.csv", "--plot", "figures", "--json"),
)


def test_a_teacher_alone_is_judged_with_numbers_and_limits(folder):
    answer = gap(*ALONE)
    found = answer.json["data"]["explanation"]
    assert problems(answer.json, schema := schema_of("analyze-gap"), schema) == []
    verdict = found["hypothesis"]
    for text in (
        f"distilling it amounts to {verdict['effect']} at τ = 9",
        formatting.number(verdict["relative_entropy"]["value"]),
        formatting.number(verdict["column_cv"]),
        "constant below 0.01, varied from 0.1 on",
        "V_row",
        "H_sim",
        formatting.number(found["silhouette"]["value"]["value"]),
        formatting.number(found["projection"]["spread"]["value"]),
        "--deep",
    ):
        assert text in answer.err


def test_the_table_by_class_is_short_unless_all_is_wanted(folder):
    def classes(*argv: str) -> list[str]:
        lines = gap("-t", "runs/large", *argv).out.splitlines()
        start = next(number for number, line in enumerate(lines) if line.startswith("    class "))
        return [
            line.split()[0]
            for line in lines[start + 1 : start + 11]
            if line.startswith("    ") and line.split()[0].isdecimal()
        ]

    assert len(classes()) == 5
    assert sorted(classes("-v")) == [str(number) for number in range(10)]


def test_a_pair_is_explained_on_the_screen(folder):
    answer = gap(*PAIR)
    (found,) = answer.json["data"]["explanations"]
    rescaled = found["rescaling"][0]["spearman"]["value"]
    ranks = found["distance_ranks"]["correlation"]["value"]
    for text in (
        f"rank correlation of w with q_y, τ = 4   {formatting.number(rescaled, 2)}",
        f"rank correlation of −‖h−w_k‖² with q_k  {formatting.number(ranks, 2)}",
        "|M(v)−M(z)|",
        (
            f"{formatting.number(found['calibration']['ece_before'])} → "
            f"{formatting.number(found['calibration']['ece_after'])}"
        ),
        formatting.times(found["capacity"]["parameter_ratio"]),
        "CKA by stage",
        "teacher alone",
    ):
        assert text in answer.err


def test_several_teachers_are_one_table_by_size(folder):
    answer = gap(*ALL)
    assert problems(answer.json, schema := schema_of("analyze-gap"), schema) == []
    assert [row["label"] for row in answer.json["data"]["curve"]["rows"]] == ["small", "large"]
    lines = answer.err.splitlines()
    small, large = (
        next(number for number, line in enumerate(lines) if line.startswith(f"  {name} "))
        for name in ("small", "large")
    )
    assert small + 1 == large
    assert "second order" not in answer.err
    assert "second order" in gap(*PAIRS, "-v").out
    alone = gap("-t", "runs/large", "-t", "runs/small").out
    assert "distilling it is" in alone


@pytest.mark.parametrize("argv", [ALONE, PAIR, ALL], ids=["a teacher", "a pair", "all"])
def test_screens_are_within_100_columns(folder, argv):
    assert max(map(len, gap(*argv).err.splitlines())) <= 100


def test_csv_has_every_number_of_the_json(folder):
    data = gap(*ALL).json["data"]
    rows = list(csv.DictReader(Path("gap.csv").read_text().splitlines()))
    of = {
        (row["teacher"], row["network"], row["temperature"], row["class"], row["quantity"]): row
        for row in rows
        if row["form"] != "aligned"
    }
    assert len(of) == sum(row["form"] != "aligned" for row in rows), (
        "no line says the same quantity twice"
    )
    for report in (data, *data["others"]):
        label, pair = report["teacher"]["label"], report["explanations"][0]
        for at in report["explanation"]["similarity"]:
            row = of[label, "teacher", str(at["temperature"]), "", "similarity.column_cv"]
            assert [float(row[key]) for key in ("value", "low", "high")] == [
                at["column_cv"],
                *at["column_cv_interval"].values(),
            ]
            for each in at["by_class"]:
                row = of[
                    label,
                    "teacher",
                    str(at["temperature"]),
                    str(each["number"]),
                    "similarity.confidence",
                ]
                assert float(row["value"]) == each["confidence"]
        assert (
            of[label, "teacher", "9.0", "", "hypothesis.effect"]["value"]
            == report["explanation"]["hypothesis"]["effect"]
        )
        likeness = of[label, "teacher", "", "", "relations.likeness.0.value"]
        assert (
            float(likeness["low"])
            == report["explanation"]["relations"]["likeness"][0]["interval"]["low"]
        )
        assert (
            float(of[label, pair["student"], "4.0", "", "rescaling.spearman"]["value"])
            == pair["rescaling"][0]["spearman"]["value"]
        )
        assert (
            float(of[label, pair["student"], "", "", "differences.class_mean.mean"]["value"])
            == pair["differences"][0]["mean"]
        )
        assert (
            float(of[label, pair["student"], "", "", "calibration.temperature"]["value"])
            == pair["calibration"]["temperature"]
        )
        assert (
            float(of[label, pair["student"], "", "", "cka.values.0.0"]["value"])
            == pair["cka"]["values"][0][0]
        )
    assert (
        float(of["", "large", "1.0", "", "curve.accuracy"]["value"])
        == data["curve"]["rows"][1]["accuracy"]
    )


def test_every_figure_is_drawn_twice_and_shown_over_its_caption(folder):
    answer = gap(*ALL)
    drawn = {path.stem for path in Path("figures").glob("*.svg")}
    single = {
        "gap-levels",
        "gap-classes",
        "class-correlation",
        "weight-cosine",
        "projection",
        "tsne",
        "rescaling",
        "logit-difference",
        "cka",
    }
    assert drawn == {"entropy-temperature", "hypothesis", "degradation"} | {
        f"{name}-{of}" for name in single for of in ("large", "small")
    }
    assert {path.stem for path in Path("figures").glob("*.png")} == drawn
    page = Path("figures/README.md").read_text()
    assert f"{len(drawn)} figures" in answer.err
    for name in drawn:
        assert f"({name}.svg)" in page
        assert Path(f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        svg = ET.fromstring(Path(f"figures/{name}.svg").read_text())
        assert svg.find("{http://www.w3.org/2000/svg}title").text


def test_the_page_says_what_the_json_says_and_needs_no_network(folder):
    answer = gap(*PAIR)
    data, page = (
        answer.json["data"],
        Path("pages/gap.html").read_text().replace("\N{NO-BREAK SPACE}", " "),
    )
    assert "page     pages/gap.html" in answer.err
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert (
        "from-large is "
        f"{formatting.times(data['explanations'][0]['capacity']['parameter_ratio'])} smaller"
    ) in page
    verdict = data["explanation"]["hypothesis"]
    at_one = data["pairs"][0]["at"][0]["entropy"]
    for number in (
        verdict["relative_entropy"]["value"],
        verdict["column_cv"],
        data["explanations"][0]["calibration"]["ece_after"],
    ):
        assert formatting.number(number) in page
    assert f"{formatting.signed(at_one['low'])} to {formatting.signed(at_one['high'])}" in page

"""The commands at the head of the recipes on Penn Treebank, shortened, on files of its layout."""

from __future__ import annotations

import re
import shlex

import pytest

from kdcli.files import read_json
from kdcli.recipe import shipped
from kdcli.recipe.resolve import resolve, teacher_recipe
from kdcli.recipe.sweep.cells import load_sweep
from kdcli.recipe.writing import recipe_hash
from kdcli.runs.find import finished_runs

# one epoch of the teacher and of a small student; the way of a path depends on neither
SHORT = (
    "-s", "teacher.epochs=1", "-s", "train.epochs=1", "-s", "student.embedding=8", "-s", "student.hidden=12",
    "-s", "report.html=false", "-s", "report.latency=false", "-q",
)  # fmt: skip


@pytest.fixture(scope="module")
def penn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("penn")
    words = [f"w{number}" for number in range(120)]
    for part, lines in (("train", 30), ("valid", 6), ("test", 6)):
        (folder / f"ptb.{part}.txt").write_text(
            "".join(f" {' '.join(words[line % 10 :: 10])} <unk> \n" for line in range(lines))
        )
    return folder


def commands(name, path):
    """The commands at the head of a shipped recipe, each split into its words after `kd`."""
    text = shipped.find(name).read_text(encoding="utf-8")
    told = re.findall(r"^#   kd (.+)$", text, re.MULTILINE)
    return [shlex.split(re.sub(r"(?<=data\.path=)\S+", str(path), found)) for found in told]


def test_the_path_of_a_text_reaches_the_recipe_of_its_teacher(penn):
    swept, _ = commands("tables/partial-table3-ptb", penn)
    (distilled,) = commands("language/kd-awd_lstm-ptb", penn)
    sets = [distilled[-1]]
    assert sets == [swept[-1]]
    first = resolve("distill", file=distilled[1], sets=sets, environ={}).recipe
    cells = load_sweep(swept[1], sets=sets).cells
    for recipe in (first, *(cell.resolved.recipe for cell in cells)):
        for section in recipe.teacher:
            assert teacher_recipe(section, recipe)[0].recipe.data.path == str(penn)
    assert recipe_hash(first).startswith(cells[1].id)


def test_a_path_of_its_own_stays(penn, tmp_path):
    own = tmp_path / "teacher.toml"
    own.write_text('[data]\nname = "text"\npath = "own.txt"\n[model]\nname = "gpt"\n')
    values = {"teacher.recipe": str(own), "student.name": "gpt_small", "method.name": "kd"}
    for data, path in (("text", "own.txt"), ("penn-treebank", "own.txt")):
        recipe = resolve(
            "distill", values={**values, "data.name": data, "data.path": str(penn)}
        ).recipe
        assert teacher_recipe(recipe.teacher[0], recipe)[0].recipe.data.path == path


@pytest.mark.slow
def test_the_commands_at_the_head_run(kd, penn, tmp_path):
    (distilled,) = commands("language/kd-awd_lstm-ptb", penn)
    assert kd(*distilled, *SHORT).code == 0
    runs = {run.name for run in finished_runs(tmp_path / "runs").values()}
    assert len(runs) == 2
    (teacher,) = (tmp_path / "runs").glob("awd_lstm-*")
    assert read_json(teacher / "summary.json")["test"]["n"] == 6 * 14 - 1
    swept, shown = commands("tables/partial-table3-ptb", penn)
    assert kd(*swept, *SHORT).code == 0
    # the teacher and the run under it are those of before
    after = {run.name for run in finished_runs(tmp_path / "runs").values()}
    assert after > runs
    assert len(after) == 4
    answer = kd(*shown, *SHORT)
    assert answer.code == 0
    assert "kd_topk" in answer.out

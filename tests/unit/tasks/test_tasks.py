"""Tasks: what differs between pictures and text stands in kdcli/tasks, and nowhere else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kdcli
from kdcli import tasks
from kdcli.errors import NotFound
from kdcli.results.intervals import Interval
from kdcli.results.measures import Measures

ROOT = Path(kdcli.__file__).parent
NAMES = {"image-classification", "language-modelling", "text-classification"}
CONSTANTS = {name.upper().replace("-", "_") for name in NAMES}


def measures(**changes) -> Measures:
    values = {
        "n": 1000, "accuracy": 0.5, "accuracy_interval": Interval(0.4, 0.6), "top5": None, "nll": 4.0,
        "ece": 0.1, "entropy": 1.0, "free_energy": 1.0, "logit_norm": 1.0,
    }  # fmt: skip
    return Measures(**{**values, **changes})


def test_every_file_is_a_task_and_says_what_people_need():
    assert set(tasks.names()) >= NAMES
    for name in tasks.names():
        task = tasks.named(name)
        assert task.name == name
        assert all((task.summary, task.sample, task.rows, task.batched))
        assert task.measures[0] == task.headline.path
        assert all(hasattr(Measures, path) for path in task.measures)
    with pytest.raises(NotFound, match="'speech' is not a task"):
        tasks.named("speech")


def test_data_and_networks_know_their_task():
    assert tasks.of_data("digits").name == tasks.of_model("resnet20").name == "image-classification"
    assert tasks.of_data("penn-treebank").name == tasks.of_model("awd_lstm").name
    # a report is read where the file is not
    assert tasks.of_data("elsewhere.py:data").name == "image-classification"


def _is_name(node: ast.AST) -> bool:
    return (
        (isinstance(node, ast.Constant) and node.value in NAMES)
        or (isinstance(node, ast.Name) and node.id in CONSTANTS)
        or (isinstance(node, ast.Attribute) and node.attr in CONSTANTS)
    )


def _says(node: ast.AST) -> ast.AST | None:
    """What says which task something is of, and decides nothing: task = NAME, "task": NAME."""
    if isinstance(node, ast.keyword) and node.arg == "task":
        return node.value
    if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "task":
        return node.value
    return None


def _decides(tree: ast.AST) -> list[int]:
    """Lines on which a task's name, or what is called task, decides something."""
    said: set[int] = set()
    for node in ast.walk(tree):
        if (value := _says(node)) is not None:
            said.add(id(value))
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "task":
                    said.add(id(value))
    found = [node.lineno for node in ast.walk(tree) if _is_name(node) and id(node) not in said]
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.Match | ast.Subscript):
            parts = [node.subject] if isinstance(node, ast.Match) else []
            parts += [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            parts += [node.slice] if isinstance(node, ast.Subscript) else []
            none = [part for part in parts if isinstance(part, ast.Constant) and part.value is None]
            called = [part for part in parts if isinstance(part, ast.Attribute)]
            if not none and any(part.attr == "task" for part in called):
                found.append(node.lineno)
    return found


def test_nothing_outside_depends_on_the_name_of_a_task():
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        if path.is_relative_to(ROOT / "tasks") or path == ROOT / "core" / "task.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(ROOT)}:{line}" for line in _decides(tree)]
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        "if info.task == 'language-modelling': pass",
        "found = {TEXT_CLASSIFICATION: 1}[info.task]",
        "x = table[info.task]",
        "match info.task:\n    case _: pass",
        "words = info.task in WORDY",
        "words = kind.LANGUAGE_MODELLING",
    ],
)
def test_a_branch_on_the_name_of_a_task_would_be_seen(code):
    assert _decides(ast.parse(code))
    assert not _decides(ast.parse("Info(task=LANGUAGE_MODELLING); {'task': 'text-classification'}"))


def test_the_headline_is_better_where_its_score_is_larger():
    image, text = (tasks.named(name).headline for name in sorted(NAMES)[:2])
    good, bad = measures(accuracy=0.75, nll=3.0), measures()
    assert image.score(good) > image.score(bad)
    assert text.score(good) > text.score(bad)
    assert image.shown(good) == "75.0\u202f%" or image.shown(good).startswith("75")
    assert text.shown(good) == "20.09"
    assert text.beside(bad, good) == "34.51 higher in perplexity than"
    assert text.beside(good, good) == "as perplexed as"


def test_rows_are_kept_whole_as_long_as_memory_allows():
    image, text = (tasks.named(name) for name in sorted(NAMES)[:2])
    assert image.every(10**6, 1000) == 1
    assert text.every(10_000, 1000) == 1
    every = text.every(2_000_000, 33_000)
    assert every > 1
    assert 4 * (2_000_000 // every) * 33_000 <= 1 << 28

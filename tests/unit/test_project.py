"""Rules about the repository itself that no other tool checks."""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import grimp
import pytest

import kdcli

ROOT = Path(__file__).parents[2]
# in pieces, so that this file does not match itself
PRIVATE = re.compile(
    "|".join(
        [
            "/wo" + "rk/",
            "/ro" + "ot/",
            "/ho" + r"me/\w",
            r"index" + "-url",
            r"pypi\.(?:org|python)",
            r"npm" + "js",
            r"regis" + r"try\.\w",
        ]
    )
)
MOST_LINES, MOST_FUNCTION_LINES = 500, 80
LONG = {
    "kdcli/engine/trainer.py": "the loop with its state, to be read from top to bottom",
    "kdcli/recipe/schema.py": "every key of a recipe and its default, in one place",
    "tests/unit/jobs/build/test_logit_cache.py": "one pair of networks and its table serve every test",
    "kdcli/jobs/measure/analyze_gap.py:analyze_gap": "an argument for each option of the command, said one by one",
}


def tracked(*patterns: str) -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [path for path in (ROOT / name for name in names.split("\0") if name) if path.is_file()]


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_no_file_names_a_machine_or_a_package_index():
    found = []
    for path in tracked():
        text = path.read_bytes().decode("utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in PRIVATE.finditer(text)]
    assert not found


def test_every_public_name_has_a_docstring():
    bare = []
    for path in tracked("kdcli/*.py", "tools/*.py", "benchmarks/*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        public = [
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        ]
        bare += [
            f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'module')}"
            for node in (tree, *public)
            if not ast.get_docstring(node)
        ]
    assert not bare


def test_what_is_long_says_why():
    """A mirror: what outgrows it is split where that reads better, or named in LONG with its
    reason.
    """
    found = set()
    for path in tracked("kdcli/*.py", "tests/*.py", "tools/*.py", "benchmarks/*.py"):
        place = path.relative_to(ROOT).as_posix()
        if path.read_text(encoding="utf-8").count("\n") > MOST_LINES:
            found.add(place)
        found |= {
            f"{place}:{node.name}" for node in functions(path) if length(node) > MOST_FUNCTION_LINES
        }
    assert found == set(LONG)


def test_every_file_of_tests_is_collected(request):
    """pytest passes by folders of certain names, such as `build`, unless told otherwise."""
    passed_by = request.config.getini("norecursedirs")
    folders = {part for path in tracked("tests/*.py") for part in path.relative_to(ROOT).parts[:-1]}
    assert not [
        folder
        for folder in folders
        if any(fnmatch.fnmatch(folder, pattern) for pattern in passed_by)
    ]


def test_no_two_modules_import_each_other():
    graph = grimp.build_graph("kdcli")
    pairs = {
        tuple(sorted((one, other)))
        for one in graph.modules
        for other in graph.find_modules_directly_imported_by(one)
        if one in graph.find_modules_directly_imported_by(other)
    }
    assert not pairs


def test_the_version_is_said_once_and_repeated_faithfully():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == kdcli.__version__
    assert f"## {kdcli.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_links_between_our_pages_lead_somewhere():
    dead = []
    for page in tracked("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                dead.append(f"{page.relative_to(ROOT)}: {target}")
    assert not dead


@pytest.mark.slow
def test_the_wheel_brings_the_recipes(tmp_path):
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "-w",
            str(tmp_path),
            str(ROOT),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {
        f"kdcli/_recipes/{path.relative_to(ROOT / 'recipes')}" for path in tracked("recipes/*.toml")
    }
    assert shipped
    assert shipped <= names
    assert not any(name.startswith("tests/") for name in names)

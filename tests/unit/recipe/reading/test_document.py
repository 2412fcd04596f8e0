"""A file that cannot be read as TOML is one problem, placed where the parser stopped."""

from __future__ import annotations

import pytest

from kdcli.errors import NotFound, RecipeInvalid
from kdcli.recipe.reading import toml_file


def syntax_error(path):
    with pytest.raises(RecipeInvalid) as caught:
        toml_file.read(path)
    (problem,) = caught.value.diagnostics
    return problem


def test_syntax_error_has_the_parsers_place(write):
    problem = syntax_error(write("r.toml", "[data]\nname = cifar100\n"))
    assert (problem.where.file, problem.where.line, problem.where.column) == ("r.toml", 2, 8)
    assert (problem.source_line, problem.hint) == (
        "name = cifar100",
        "strings need quotes, and a list its closing bracket",
    )


def test_syntax_error_at_the_end_of_the_file(write):
    problem = syntax_error(write("r.toml", '[data]\nname = "x'))
    assert problem.where.line == 2


def test_duplicate_key_is_a_syntax_error(write):
    assert "overwrite" in syntax_error(write("r.toml", "seed = 1\nseed = 2\n")).problem


def test_binary_file_is_no_recipe(here):
    (here / "r.toml").write_bytes(b"\xff\xfe\x00")
    assert syntax_error(here / "r.toml").problem == "not a text file"


def test_missing_file_and_folder(here):
    for path in (here / "absent.toml", here):
        with pytest.raises(NotFound):
            toml_file.read(path)


def test_windows_files_have_the_same_places(here):
    (here / "r.toml").write_bytes("\ufeff[data]\r\nname = 'x'\r\n".encode())
    read = toml_file.read(here / "r.toml")
    assert read.values == {"data": {"name": "x"}}
    value = read.origin(("data", "name")).at.value
    assert (value.line, value.column, value.length) == (2, 8, 3)

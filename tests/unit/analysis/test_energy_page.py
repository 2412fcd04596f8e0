"""docs/explanation/energy.md says what its code prints."""

from __future__ import annotations

import contextlib
import io
import re

import pytest

BLOCK = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def numbers(text):
    return [float(number) for number in NUMBER.findall(text)]


def test_the_code_of_the_page_prints_what_the_page_says(root):
    page = (root / "docs" / "explanation" / "energy.md").read_text(encoding="utf-8")
    blocks, names = BLOCK.findall(page), {}
    assert len(blocks) == page.count("```python") == 4
    for code, output in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)  # the blocks of a page share their names, as in a notebook
        # the last digit may differ between processors
        assert numbers(printed.getvalue()) == pytest.approx(numbers(output), abs=0.011)
        assert NUMBER.sub("", printed.getvalue()).split() == NUMBER.sub("", output).split()

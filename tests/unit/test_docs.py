"""The generated pages of docs/reference say what the code says now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import docs

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", docs.PAGES)
def test_generated_page_is_up_to_date(name):
    written = (docs.REFERENCE / name).read_text(encoding="utf-8")
    assert written == docs.page(name), "run: make docs"


def test_every_test_that_a_page_names_is_there():
    """Nothing is promised that is not tested: docs/explanation/guarantees.md, SECURITY.md."""
    named = set()
    for page in [ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")]:
        named |= set(re.findall(r"\btests/[\w/]+\.py(?:::\w+)?", page.read_text(encoding="utf-8")))
    assert len(named) > 20
    for place in sorted(named):
        path, _, test = place.partition("::")
        assert (ROOT / path).is_file(), place
        assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8") or not test, place

"""The generated pages of docs/reference say what the code says now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdcli import catalog
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


@pytest.mark.parametrize(
    ("page", "before"), [("README.md", "`kd methods`: "), ("CHANGELOG.md", "- ")]
)
def test_methods_are_counted_right(page, before):
    (number,) = re.findall(rf"^.*{before}(\d+) (?:methods|on logits)", _read(page), re.MULTILINE)
    assert int(number) == len(catalog.names("method"))


def test_every_page_is_in_the_table_of_contents():
    listed = set(re.findall(r"\]\(([\w/-]+\.md)\)", _read("docs/README.md")))
    pages = {
        page.relative_to(ROOT / "docs").as_posix()
        for folder in ("tutorial", "how-to", "explanation", "results")
        for page in (ROOT / "docs" / folder).glob("*.md")
    }
    assert pages - listed == set()
    assert all((ROOT / "docs" / name).is_file() for name in listed)


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")

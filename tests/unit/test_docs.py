"""The generated pages of docs/reference say what the code says now."""

from __future__ import annotations

import pytest

from tools import docs


@pytest.mark.parametrize("name", docs.PAGES)
def test_generated_page_is_up_to_date(name):
    written = (docs.REFERENCE / name).read_text(encoding="utf-8")
    assert written == docs.page(name), "run: make docs"

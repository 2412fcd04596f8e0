"""The sweep over all methods has a row for each method: a new one appears on the results page, or
this fails.
"""

from __future__ import annotations

from kdcli import catalog
from kdcli.recipe.sweep.cells import load_sweep


def test_every_method_has_a_row():
    sweep = load_sweep("digits/methods")
    sweep.check()
    assert {cell.resolved.recipe.method.name for cell in sweep.cells} == set(
        catalog.names("method")
    )

"""Shipped recipes are found by every name that people use for them, and a file of one's own
wins.
"""

from __future__ import annotations

import pytest

from kdcli.errors import NotFound
from kdcli.recipe import shipped


@pytest.mark.parametrize(
    "name", ["quickstart", "quickstart.toml", "recipes/quickstart.toml", "recipes/quickstart"]
)
def test_found_by_any_of_its_names(here, name):
    assert shipped.name_of(shipped.find(name)) == "quickstart"
    assert shipped.locate(name) == shipped.find(name)


def test_found_in_folders():
    nested = next(item for item in shipped.ls() if "/" in item.name and item.kind == "distill")
    assert shipped.find(nested.name) == nested.path


def test_a_file_on_disk_wins_and_one_beside_wins_first(write):
    own = write("recipes/quickstart.toml", "seed = 1")
    beside = write("mine/recipes/quickstart.toml", "seed = 2")
    assert shipped.locate("recipes/quickstart.toml") == own
    assert shipped.locate("recipes/quickstart.toml", beside=beside.parent.parent) == beside


@pytest.mark.parametrize("name", ["quickstrat", "recipes/quick-start.toml"])
def test_unknown_names_get_a_suggestion(name):
    with pytest.raises(NotFound) as caught:
        shipped.find(name)
    assert "did you mean 'quickstart'?" in caught.value.hint


def test_nothing_outside_of_the_folder_ships():
    with pytest.raises(NotFound):
        shipped.find("../pyproject")


def test_listing_says_what_each_is():
    listed = {item.name: item for item in shipped.ls()}
    assert (listed["quickstart"].kind, listed["quickstart-teacher"].kind) == (
        "distill",
        "train-teacher",
    )
    assert list(listed)[:2] == ["quickstart-teacher", "quickstart"]
    assert all(item.summary for item in listed.values())

"""Options of which one would do nothing beside the other are refused, and both are named."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from kdcli import catalog

EXCLUSIVE = [
    ("ctkd", {"kind": "global", "width": 8}, ("global", "width")),
    ("deit", {"kind": "hard", "temperature": 2.0}, ("hard", "temperature")),
    ("dgkd", {"drop": 2, "survival": 0.5}, ("drop", "survival")),
    ("pro_kd", {"loss": "mse", "max_temperature": 5.0}, ("mse", "max_temperature")),
    ("skd", {"align": "unit", "multiplier": 3.0}, ("unit", "multiplier")),
]


@pytest.mark.parametrize(("name", "options", "words"), EXCLUSIVE)
def test_options_that_exclude_each_other_are_refused_by_name(name, options, words):
    cls = catalog.options_class(catalog.entry("method", name))
    with pytest.raises(ValidationError) as caught:
        cls(**options)
    assert all(word in str(caught.value) for word in words)
    for key in options:  # each alone, and both as a finished run's recipe says them, will do
        cls(**{key: options[key]} if key in {"survival", "kind", "loss", "align"} else {})
    cls(**cls().model_dump())

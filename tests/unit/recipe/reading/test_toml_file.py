"""Every key and value of a file is found where it stands, however the TOML is written."""

from __future__ import annotations

import tomllib

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from kdcli.recipe.reading.toml_file import locate

NASTY = (
    r'''# comment [not.a.table]
title = "a # not a comment [b]"  # c = 1
"quoted key" = 1
a.b."c.d" = 'lit'
[ data ]   # x
name    =   "cifar]100"
lines = """first
[not.a.header] = 3 \""" "" \""""" # x
empty = """"""
many = '''
    """'''q''''

"""
    r"""arr = [ 1, # one, ]
  2, [3, "]"],
]
date = 1979-05-27 07:32:00
inl = { x = 1, y.z = [ {q = 2} ], s = "}" }
[[teacher]]
checkpoint = "a"
[teacher.sub]
k = 1
[[teacher]]
checkpoint = "b"
[[teacher.more]]
z=-0.05
[[teacher.more]]
z=inf
"""
)


def texts(text):
    """Key path -> (text of the key, text of the value's first line)."""
    lines = text.split("\n")

    def cut(place):
        return lines[place.line - 1][place.column - 1 :][: place.length]

    return {path: (cut(span.key), cut(span.value)) for path, span in locate(text).items()}


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("title",), "title", '"a # not a comment [b]"'),
        (("quoted key",), '"quoted key"', "1"),
        (("a", "b", "c.d"), '"c.d"', "'lit'"),
        (("data",), "data", "data"),
        (("data", "name"), "name", '"cifar]100"'),
        (("data", "lines"), "lines", '"""first'),
        (("data", "empty"), "empty", '""""""'),
        (("data", "many"), "many", "'''q''''"),
        (("data", "arr", 1), "2", "2"),
        (("data", "arr", 2, 1), '"]"', '"]"'),
        (("data", "date"), "date", "1979-05-27 07:32:00"),
        (("data", "inl", "y", "z", 0, "q"), "q", "2"),
        (("data", "inl", "s"), "s", '"}"'),
        (("teacher", 0, "checkpoint"), "checkpoint", '"a"'),
        (("teacher", 0, "sub", "k"), "k", "1"),
        (("teacher", 1, "checkpoint"), "checkpoint", '"b"'),
        (("teacher", 1, "more", 0, "z"), "z", "-0.05"),
        (("teacher", 1, "more", 1, "z"), "z", "inf"),
    ],
)
def test_finds_keys_and_values_in_a_nasty_file(path, key, value):
    tomllib.loads(NASTY)
    assert texts(NASTY)[path] == (key, value)


def paths(value, path=()):
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield (*path, key)
        yield from paths(item, (*path, key))


scalars = st.one_of(
    st.integers(-9, 9),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
tables = st.dictionaries(
    st.text(min_size=1, max_size=6),
    st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(min_size=1, max_size=4), inner, max_size=3)
        ),
    ),
    max_size=4,
)


@given(tables)
def test_finds_every_path_of_any_table(values):
    assert set(paths(values)) <= set(locate(tomli_w.dumps(values)))

"""Classes of a teacher and of the data are compared by name and order, as far as both have names."""

from __future__ import annotations

import pytest

from kdcli.errors import Incompatible
from kdcli.recipe.teacher_facts import Images, Known, check_fit, relation, remark


def teacher(names) -> Known:
    return Known("t", "teacher's file", "mlp", {"name": "own"}, len(names), (1, 8, 8), names)


def images(names) -> Images:
    return Images("data", len(names), (1, 8, 8), names)


@pytest.mark.parametrize(
    ("names", "others", "found"),
    [
        ("ab", "ab", "same"),
        ("01", "01", "same"),
        ("ab", "ba", "order"),
        ("10", "01", "order"),
        ("ab", "ac", "other"),
        ("ab", "01", "unknown"),
        ("01", "ab", "unknown"),
    ],
)
def test_names_are_the_same_or_not_or_unknown(names, others, found):
    assert relation(tuple(names), tuple(others)) == found
    fits = found in {"same", "unknown"}
    if fits:
        check_fit(teacher(tuple(names)), images(tuple(others)))
    else:
        with pytest.raises(Incompatible, match="another order" if found == "order" else "other"):
            check_fit(teacher(tuple(names)), images(tuple(others)))
    assert (remark(teacher(tuple(names)), images(tuple(others))) is not None) == (
        found == "unknown"
    )


def test_the_remark_says_who_has_names():
    assert remark(teacher(("a", "b")), images(("0", "1"))) == (
        "of data and the teacher only the teacher has names for its classes (a, b, ...): they are "
        "taken to be in the same order"
    )
    assert "only data has names" in str(remark(teacher(("0", "1")), images(("a", "b"))))

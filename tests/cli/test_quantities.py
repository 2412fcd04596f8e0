"""Numbers with units, and the options that take them."""

from __future__ import annotations

import pytest

from kdcli.cli import quantities


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (quantities.milliseconds, "5ms", 5.0),
        (quantities.milliseconds, "0.8", 0.8),
        (quantities.milliseconds, "200us", 0.2),
        (quantities.amount, "50k", 50_000),
        (quantities.amount, "1.5M", 1_500_000),
        (quantities.amount, "2e3", 2000),
        (quantities.seconds, "2h", 7200),
        (quantities.seconds, "1h30m", 5400),
    ],
)
def test_what_is_read(read, text, value):
    assert read(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (quantities.milliseconds, "5 parsecs"),
        (quantities.amount, ""),
        (quantities.seconds, "2"),
        (quantities.seconds, "0s"),
    ],
)
def test_what_is_none(read, text):
    with pytest.raises(ValueError, match="is no"):
        read(text)


def test_an_option_says_what_it_takes(kd):
    answer = kd("search", "--time", "soon")
    assert answer.code == 2
    assert "'soon' is no length of time; for example 2h or 1h30m" in answer.err
    assert kd("find-teacher", "quickstart", "--smoothings", "0,1.5").code == 2
    assert kd("search", "--temperatures", "1,x").code == 2

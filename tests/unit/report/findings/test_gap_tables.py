"""A number that explains a gap is one row of one table: the screen and the page show it, and a
field of the record is in the CSV.
"""

from __future__ import annotations

import csv

from kdcli.cli.output.explanation_screen import pair_lines
from kdcli.cli.output.gap_files import write_csv
from kdcli.report.findings import gap_tables
from kdcli.report.page.gap import to_page
from kdcli.results.pair import PairExplanation
from tests.unit.report import fake_gap


def test_a_row_of_the_table_shows_on_the_screen_and_on_the_page(monkeypatch):
    row = gap_tables.PairRow(lambda _: "a new number", lambda _, pair: f"0.123 of {pair.student}")
    monkeypatch.setattr(gap_tables, "PAIR_ROWS", [*gap_tables.PAIR_ROWS, row])
    monkeypatch.setattr("kdcli.report.page.gap.figures_of_report", lambda _: ())
    report = fake_gap.report()
    (pair,) = report.explanations
    for text in ("\n".join(pair_lines(report)), to_page(report)):
        assert "a new number" in text
        assert f"0.123 of {pair.student}" in text


def test_every_field_of_a_pair_is_in_the_csv(tmp_path):
    report = fake_gap.report()
    write_csv(report, tmp_path / "gap.csv")
    with (tmp_path / "gap.csv").open(encoding="utf-8", newline="") as handle:
        quantities = {row["quantity"].split(".")[0] for row in csv.DictReader(handle)}
    fields = set(PairExplanation.__dataclass_fields__) - {"student"}
    assert fields <= quantities

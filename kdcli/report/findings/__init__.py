"""Findings: a run's or a gap's numbers, said in sentences and rows."""

"""Reads a run directory and shows it: report.html, report.md, MODEL_CARD.md, comparisons and
tables. Never a model, never torch.
"""

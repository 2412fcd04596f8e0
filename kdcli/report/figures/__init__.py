"""Figures of a report, as SVG: one function a figure, one file for what it is of."""

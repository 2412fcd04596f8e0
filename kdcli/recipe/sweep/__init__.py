"""Sweep files: a matrix of recipes, and the paper's values beside it."""

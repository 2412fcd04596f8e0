"""Reads a run directory and shows it; never a model, never torch."""

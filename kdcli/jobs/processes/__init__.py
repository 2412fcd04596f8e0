"""Processes beside this one: the ranks of a run, the workers of a sweep, and signals."""

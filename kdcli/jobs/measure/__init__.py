"""Measuring networks: one checkpoint, the gap of several, and what explains it."""

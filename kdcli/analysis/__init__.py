"""Analyses of logits: the gap between teacher and student, and what explains it."""

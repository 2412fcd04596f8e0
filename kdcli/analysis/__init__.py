"""Analyses of teachers, students and the gap between them, from logits, features and weights."""

"""Weights that another program trained become a checkpoint."""

"""Recipes: what a run is, validated before torch is imported."""

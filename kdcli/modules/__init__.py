"""Bricks that several methods share."""

"""Experiment trackers as listeners: one file each, named as report.track names it."""

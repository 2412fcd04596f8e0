"""A run's folder on disk: its name and files, reading it, and finding runs. No torch."""

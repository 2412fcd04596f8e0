"""One run: training, measuring and writing."""

"""What is said of a run or a gap: sentences and rows made of its numbers."""

"""A sweep: the order of its runs, and the processes that make them."""

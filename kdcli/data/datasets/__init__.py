"""One file a family of datasets: found by file name, as methods are."""

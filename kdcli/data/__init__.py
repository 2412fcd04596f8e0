"""Datasets: one file a family, each a source of batches on the device."""

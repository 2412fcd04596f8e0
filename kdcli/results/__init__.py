"""Frozen records of what is measured: what jobs return, files hold and `--json` prints.

Accuracy is a fraction, entropies are in nats, times in seconds. Standard library only: reports read
these without torch.
"""

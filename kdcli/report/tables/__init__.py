"""Tables over several runs: sweeps beside a paper's values, comparisons, numbers by name."""

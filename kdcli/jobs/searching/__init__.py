"""Searches: trials that are raced rung by rung, each an ordinary run; Optuna chooses them."""

"""The loop that trains. It knows no method, network or dataset by name."""

"""How teachers answer: through an inference copy, or from stored logits."""

"""Teachers that answer through an inference copy of their network, or from stored logits."""

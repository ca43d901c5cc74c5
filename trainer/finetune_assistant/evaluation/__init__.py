"""Proof that a model is better: benchmarks, perplexity, comparison, and the results as values."""

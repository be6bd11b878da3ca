"""Judges of pairs of outputs: an endpoint, or a local model's label probabilities."""

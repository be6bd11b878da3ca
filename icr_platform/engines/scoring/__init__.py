"""Log-probabilities of token ids under a model, packed without padding."""

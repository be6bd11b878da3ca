"""Win rates, comparisons and fidelity of a policy's outputs."""

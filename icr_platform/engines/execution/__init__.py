"""Parts of an artifact made here, or by the workers of a Ray cluster."""

"""Whatever touches a model, an endpoint or a cluster."""

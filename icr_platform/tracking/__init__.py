"""MLflow: runs, metrics, artifacts, datasets, registry."""

"""MLflow: runs, metrics, artifacts, datasets, registry. The only room that imports mlflow."""

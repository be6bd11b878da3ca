"""What every room stands on: configurations, schemas, artifacts, errors, languages."""

"""MLflow: runs, registered versions, aliases."""

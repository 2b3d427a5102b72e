"""What runs around the pipeline: servers, containers and database migrations."""

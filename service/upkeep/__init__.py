"""What keeps a library healthy: garbage collection, checks, backup and background tasks."""

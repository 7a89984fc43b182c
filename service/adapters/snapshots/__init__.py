"""Index snapshots in a folder or in S3."""

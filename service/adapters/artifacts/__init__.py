"""Artifact stores in a folder or in S3."""

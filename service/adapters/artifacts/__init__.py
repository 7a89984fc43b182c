"""Artifact stores: a folder or S3."""

"""Pydantic schemas of the requests and responses."""

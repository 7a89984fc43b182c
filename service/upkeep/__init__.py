"""Upkeep of a library: garbage collection, examination, backup and background tasks."""

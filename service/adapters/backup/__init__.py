"""Backup folders and the tables written to them."""

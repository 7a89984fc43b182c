"""Tests of the built wheel in empty environments."""

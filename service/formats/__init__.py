"""Conversion between values and bytes: artifacts, cards, archives, worker messages and images."""

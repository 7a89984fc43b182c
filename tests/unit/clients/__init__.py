"""The list of client programs."""

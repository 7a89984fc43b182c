"""The catalogue in SQLite or PostgreSQL."""

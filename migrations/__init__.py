"""The catalogue's schema, step by step (Alembic). Schema only: no step may need the service's models."""

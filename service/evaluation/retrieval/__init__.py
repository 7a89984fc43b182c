"""How well a library finds the right vector, and leaves other queries alone: docs/reference/retrieval.md."""

"""The worker process: one LVLM with its slot table, and the query embedder."""

"""Process 2: holds one LVLM with its slot table, and the query embedder."""

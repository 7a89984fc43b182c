"""The models that are loaded from disk: the LVLM with its prompt formats, and the query embedder."""

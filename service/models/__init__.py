"""What is loaded from disk: the LVLM, the query embedder, their prompt formats and fingerprints."""

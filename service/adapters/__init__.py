"""The ports' implementations: SQL, S3, folder, FAISS, and in-memory twins of all of them."""

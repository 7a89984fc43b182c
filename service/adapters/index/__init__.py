"""The task index on FAISS, and its snapshots."""

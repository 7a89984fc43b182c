"""Implementations of the ports, one package per port: SQL, folder, S3, FAISS, HTTP workers."""

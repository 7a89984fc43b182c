"""`python -m tests.bench.auto`: what choosing a vector by retrieval costs a loaded service."""

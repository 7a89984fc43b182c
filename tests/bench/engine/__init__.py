"""`python -m tests.bench.engine`: how fast the engine answers, compared with its alternatives."""

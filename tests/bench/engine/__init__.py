"""`python -m tests.bench.engine`: the engine's speed, compared with its alternatives."""

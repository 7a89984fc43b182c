"""`python -m tests.bench.library`: how fast vectors are found and registered, compared with other stores."""

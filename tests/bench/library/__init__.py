"""`python -m tests.bench.library`: the speed of retrieval and registration, compared with other stores."""

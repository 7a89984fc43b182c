"""Programs that other people wrote, unmodified, against a running service. `make test-clients` runs them."""

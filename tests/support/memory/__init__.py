"""In-memory adapters: reference models that the contract suites also run on."""

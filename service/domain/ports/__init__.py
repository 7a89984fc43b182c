"""What use cases require of adapters, one port per module. Docstrings are the contracts that adapters are tested on."""

"""One module a group of paths; each only translates between HTTP and a use case."""

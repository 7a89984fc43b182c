"""The use cases, each a function over ports: publish, amend, retrieve, steer, export, reindex, collect, examine."""

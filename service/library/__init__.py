"""The use cases, each a function over ports: publish, amend, alias, retrieve, steer, export, reindex, collect, examine, back up."""

"""The use cases, each a function over ports: publish, retrieve, steer, retire, reindex."""

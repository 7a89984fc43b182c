"""The inference engine: batches requests that use different vectors and generates their answers."""

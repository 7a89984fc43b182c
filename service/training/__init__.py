"""What all training methods share: examples, embeddings, task keys, forward passes, checkpoints and progress."""

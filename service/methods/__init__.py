"""Training methods: each turns examples and a frozen model into a vector. One folder per method."""

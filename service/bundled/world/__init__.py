"""What can be seen (drawn scenes, handwritten digits) and what can be said about it."""

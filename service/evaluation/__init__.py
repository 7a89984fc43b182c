"""Accuracy measurements of models and vectors, and reports of them."""

"""The model layer, without models."""

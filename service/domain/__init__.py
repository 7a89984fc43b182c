"""The domain model: values and rules in plain Python and numpy, without I/O."""

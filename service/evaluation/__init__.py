"""What the models and the vectors are worth, measured: figures, tables and plots."""

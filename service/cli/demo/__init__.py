"""The demo: train, register, retrieve and steer, with the results as a table, JSON and a plot."""

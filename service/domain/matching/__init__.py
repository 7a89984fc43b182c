"""Which vectors fit a query: the decision, and the calibration that it rests on."""

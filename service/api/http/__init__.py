"""What every route shares: admission control, body limits, errors, streams, metrics."""

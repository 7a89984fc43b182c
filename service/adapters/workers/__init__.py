"""Workers reached over HTTP, one or a fleet."""

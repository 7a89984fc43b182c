"""`make bench-engine`: how fast the engine is, measured side by side with what it is compared with."""

"""Bodies and events of OpenAI's responses."""

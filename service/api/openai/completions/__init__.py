"""Bodies and chunks of OpenAI's completions."""

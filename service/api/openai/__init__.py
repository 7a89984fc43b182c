"""The bodies and events of OpenAI's API, so that its clients work unchanged."""

"""The endpoint in the dialect of OpenAI's API, so that the clients that people have work unchanged."""

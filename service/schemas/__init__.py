"""JSON bodies of the HTTP API as pydantic models, shared by the server and the Python client."""

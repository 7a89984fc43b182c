"""The serving core: requests with different vectors become tokens in one running batch."""

"""VLibrary: stores in-context vectors for vision-language models, finds the right one, applies it."""

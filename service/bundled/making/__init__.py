"""How the bundled tokenizer, embedder and language model were trained."""

"""The bundled world: drawn scenes, handwritten digits, and the words for them."""

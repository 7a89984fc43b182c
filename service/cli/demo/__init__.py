"""`vlibrary demo`: trains, registers and applies vectors on the bundled model, and reports accuracy."""

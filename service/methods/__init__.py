"""How examples become a vector: M²IV, and room for its rivals behind the same protocol."""

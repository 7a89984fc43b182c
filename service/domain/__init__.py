"""The words of the library, in plain Python and numpy: vectors, cards, queries, messages, ports, errors."""

"""Process 1: the HTTP face of the library. It needs no torch."""

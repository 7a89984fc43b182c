"""How a vector is made: examples, query sets, the n-shot teacher, losses, the loop, and the keys it is found by."""

"""What happens to every request before and after its route: ids, limits, encodings, HEAD and CORS."""

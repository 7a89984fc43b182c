"""Values to bytes and back: artifacts, cards, archives, worker messages, images."""

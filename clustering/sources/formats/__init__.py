"""One format a module: bytes in, batches of wanted columns out, and what is odd in them counted."""

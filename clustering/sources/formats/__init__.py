"""One format a module: bytes in; batches of the wanted columns out, and a count of what is wrong in them."""

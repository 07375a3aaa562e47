"""Blocks of near rows on Ray: what shards exchange, and what is made of them."""

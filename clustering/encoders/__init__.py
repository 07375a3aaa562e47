"""Texts in, vectors out: the encoders, how they are found, and what decides the vectors that they make."""

"""Words of texts: sets of their hashes, near-duplicates among them, and vectors by TF-IDF."""

LEXICAL_DIM = 256  # of the vectors of words

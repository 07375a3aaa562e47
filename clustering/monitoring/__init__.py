"""What a run uses, how far it is, and what it will need."""

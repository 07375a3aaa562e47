"""What a run tells: what it uses, how far it is, what it will need."""

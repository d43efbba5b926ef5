"""Frozen encoders that turn words, pictures and sound into soft tokens."""

"""Checkpoints of the original systems, there and back."""

"""Recordings: where they lie, and their samples at one rate."""

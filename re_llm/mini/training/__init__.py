"""Trains the components of the miniature from nothing."""

"""Manifests: from corpora, checked, and exchanged with other tools."""

"""Checkpoints of the original systems, there and back; other formats of Whisper and chat LLMs."""

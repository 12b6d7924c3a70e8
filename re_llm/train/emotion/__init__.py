"""Training of emotion encoders on labelled recordings: `re-llm train recipes/emotion.yaml`."""

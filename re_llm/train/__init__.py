"""Training: rows from continuations, cached encoder features, collation, the run itself."""

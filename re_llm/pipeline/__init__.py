"""A whole recipe, stage after stage."""

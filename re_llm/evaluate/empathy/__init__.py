"""EPITOME's empathy scorers: the bi-encoders, the small scorer, their training."""

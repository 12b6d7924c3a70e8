"""Tables, significance tests, plots and examples as one page."""

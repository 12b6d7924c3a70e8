"""The real parts of the small system: fetched, checked, and made into folders."""

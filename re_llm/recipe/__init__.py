"""The options of a run and the YAML files that hold them."""

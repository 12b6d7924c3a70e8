"""Execution of the batches of a stage: in this process or on a Ray cluster."""

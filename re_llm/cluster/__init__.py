"""Where the batches of a stage are worked on: in this process or on a Ray cluster."""

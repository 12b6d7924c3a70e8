"""The miniature world: a text world, a voice world and small real components, built from nothing on a laptop."""

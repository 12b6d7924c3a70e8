"""What builds the small model from real parts: text, speech, and the stages that train on them."""

"""A loaded model in use: encode, recognise, answer, stream; one recording, a conversation or a manifest."""

"""What the decoder is, or what it sees of the past."""

"""What the posterior is made of: how the encoder's states become the features of a sentence."""

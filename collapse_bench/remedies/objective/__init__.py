"""What an update is told: the weights of the terms, and further ones."""

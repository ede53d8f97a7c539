"""What is known of z once the sentence is known."""

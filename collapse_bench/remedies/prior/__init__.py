"""What z is expected to be before the sentence is known."""

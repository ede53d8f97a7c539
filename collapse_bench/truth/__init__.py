"""Models whose every number is known exactly, to hold the bench against."""

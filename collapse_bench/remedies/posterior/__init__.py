"""Which posteriors there can be."""

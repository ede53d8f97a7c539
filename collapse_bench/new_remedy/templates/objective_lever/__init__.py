"""A remedy whose lever is `objective`."""

"""A remedy whose lever is `build`."""

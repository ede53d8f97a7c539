"""A remedy whose lever is `step`."""

"""A remedy and its test for each lever, as they are: checked, tested, and written by name."""

"""Numbers as one would say them."""


def in_words(seconds: float) -> str:
    """A time: `40 min`, `2 h 10 min`."""
    minutes = max(1, round(seconds / 60))
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{rest} min"

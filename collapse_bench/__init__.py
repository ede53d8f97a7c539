"""A benchmark of remedies for posterior collapse in text VAEs with autoregressive decoders."""

__version__ = "0.1.0"

"""Timings, run by `make bench` and never by `make test`: the plain way against the bench's own."""

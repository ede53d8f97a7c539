"""Remedies for collapse_bench."""

"""Benchmarks, studies, the campaign and committed results; not installed, run from a checkout."""

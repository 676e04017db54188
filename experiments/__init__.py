"""Recipes (`configs`), benchmarks and committed results; nothing in deq_nc imports from here but the command line."""

"""How many models of strangers are imported, and right: ``python -m benchmarks.zoo``."""

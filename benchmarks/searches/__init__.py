"""Strategies of search compared on real kernels."""

"""Strategies of search compared, on real kernels and on a table of them."""

"""Timings of the mesh itself. Not part of the tests: a shared machine makes them noisy."""

"""Experiments that compare strategies (``tunemesh bench``), and timings of the mesh itself
(``python -m benchmarks``). Their figures are not part of the tests: a shared machine makes them noisy."""

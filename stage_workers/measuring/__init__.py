"""Load kernels, time them, compare what they compute: the same for every engine."""

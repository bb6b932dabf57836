"""Small models, each of a kind that strangers bring and that once failed: tests/acceptance/test_cases.py."""

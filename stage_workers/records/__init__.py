"""What is remembered of all jobs: a database of everything that was tried, written and read by workers."""

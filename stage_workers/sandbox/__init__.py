"""Child processes with limits, in which engine code runs."""

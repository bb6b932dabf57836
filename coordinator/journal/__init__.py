"""What the core was given and what it answered, written down: replayed, or told as the story of one job."""

"""What does the work: the consumer loop, the sandbox, one file per stage, and the engines."""

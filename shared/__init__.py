"""What both sides agree on: messages and codec, transport, artifacts, the Engine protocol."""

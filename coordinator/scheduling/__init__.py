"""Which ready step goes to which idle queue, and when."""

"""Tuned models beside what people would use instead, on seven usual kinds of networks."""

"""Devices, their locks, and whether they are as fast as usual."""

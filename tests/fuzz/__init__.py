"""Bytes from elsewhere that nobody would send on purpose."""

"""Crashes on purpose: what they leave behind, and what comes of it at the next start."""

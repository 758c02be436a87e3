"""Measured against peers, as ratios in one run. ``make bench``; docs/performance.md has the numbers."""

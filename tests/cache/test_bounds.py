"""What a stranger's answer may cost, and where a stranger's word may lead."""

from __future__ import annotations

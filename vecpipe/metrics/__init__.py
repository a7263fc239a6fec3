"""Diagnostics and quality measures over plain arrays; no engine in sight."""

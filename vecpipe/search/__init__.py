"""Retrieval over vectors and codes, with no engine in sight."""

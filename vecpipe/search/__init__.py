"""Retrieval over matrices of codes and scores: no Arrow, no engine."""

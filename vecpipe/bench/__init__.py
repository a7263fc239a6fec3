"""Benchmarks: commands that measure vecpipe and its peers in one run and report ratios.

Nothing here is imported by the library. A benchmark makes its own data, checks that both sides gave the same answer
and prints medians of several runs.
"""

"""Threads: how many there are by default, and that results come in the order of the calls."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from click.testing import CliRunner

from vecpipe.cli import main
from vecpipe.engines.lancedb import columns
from vecpipe.etl import apply_model
from vecpipe.fitting.stream import fit
from vecpipe.ordered import MOST_THREADS, in_order, thread_count


@pytest.mark.parametrize(("processors", "threads"), [(None, 1), (1, 1), (2, 2), (8, 8), (64, 8)])
def test_there_are_as_many_threads_as_processors_at_most_eight(monkeypatch, processors, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert thread_count() == thread_count(None) == threads
    assert thread_count(16) == 16


def test_what_takes_threads_says_how_many_there_are_by_default():
    said = "as many as there are processors by default, at most 8."
    assert said.endswith(f"{MOST_THREADS}.")
    for function in (fit, apply_model, columns.add_column):
        assert said in " ".join(str(function.__doc__).split()), function
    shown = CliRunner().invoke(main, ["apply", "--help"], terminal_width=200).output
    assert "as many as processors, at most 8" in " ".join(shown.split())


def test_results_come_in_the_order_of_the_calls_and_none_keeps_its_place():
    calls = [None if i % 5 == 3 else partial(int, i) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert list(in_order(pool, iter(calls), 3)) == [None if i % 5 == 3 else i for i in range(40)]

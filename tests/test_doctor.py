"""The doctor finds what is there, and says what to do where something is not."""

from __future__ import annotations

import json

from click.testing import CliRunner

from vecpipe.cli import main
from vecpipe.doctor import examine
from vecpipe.engines.duckdb import connection, extension
from vecpipe.engines.duckdb.native import capi


def test_every_finding_is_good_on_this_machine():
    findings = {item.topic: item for item in examine()}
    assert all(item.good for item in findings.values())
    assert "every database" in findings["aggregates"].found
    there, of, wanted = findings["C API of DuckDB"].found.split()[:3]
    assert (there, of) == (wanted, "of")
    assert "BLAS" in findings


def test_missing_natives_are_found_with_their_reason(monkeypatch):
    monkeypatch.setattr(extension, "EXTENSION", capi.Extension(False, "this DuckDB build does not export x"))
    monkeypatch.setattr(connection, "missing_natives", lambda con: "because of x")
    found = next(item for item in examine() if item.topic == "aggregates")
    assert (found.good, found.advice) == (False, "because of x")
    assert CliRunner().invoke(main, ["doctor"]).exit_code == 1


def test_the_command_prints_a_table_and_json():
    shown = CliRunner().invoke(main, ["doctor"])
    assert shown.exit_code == 0, shown.output
    assert "aggregates" in shown.output
    lines = CliRunner().invoke(main, ["doctor", "--json"]).output.splitlines()
    assert {"topic", "found", "good", "advice"} == set(json.loads(lines[0]))

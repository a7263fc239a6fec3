"""Benchmarks as commands: that they run on small data, what they draw, and what they say when something is missing."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import anisotropic, fixed

from vecpipe.bench.codecs import draw, pareto
from vecpipe.cli import main
from vecpipe.errors import InputError
from vecpipe.evaluate import Evaluation


def evaluation(name: str, size: int, recall: float) -> Evaluation:
    return Evaluation(name, size, 1.0, 1.0, 1.0, recall, recall, recall, float("nan"))


RESULTS = [
    evaluation("transform_code(48)", 48, 0.84),
    evaluation("binary", 48, 0.69),
    evaluation("FAISS PQ64", 64, 0.8),
    evaluation("transform_code(96)", 96, 0.93),
    evaluation("int8", 384, 0.93),
]


def test_the_pareto_line_holds_what_nothing_smaller_beats():
    assert [result.name for result in pareto(RESULTS[::-1])] == ["transform_code(48)", "transform_code(96)"]


@pytest.mark.parametrize(("suffix", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_the_picture_is_of_the_kind_its_suffix_says(tmp_path, suffix, start):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"codecs.{suffix}"
    draw(RESULTS, "docs", path)
    assert path.read_bytes().startswith(start)
    if suffix == "svg":
        assert all(word in path.read_text() for word in ("FAISS PQ64", "bytes a vector", "recall@10"))


def test_a_picture_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    pytest.importorskip("matplotlib")
    for path in (tmp_path / "codecs.abc", tmp_path / "none" / "codecs.svg"):
        with pytest.raises(InputError, match="codecs"):
            draw(RESULTS, "docs", path)


@pytest.fixture
def data(tmp_path):
    docs = pa.table({"id": np.arange(700), "emb": fixed(anisotropic(700, 16))})
    pq.write_table(docs, tmp_path / "docs.parquet")
    return tmp_path


def test_without_matplotlib_the_command_says_what_to_install_before_it_measures(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    command = ["bench", "codecs", "--data", str(data), "--picture", str(data / "codecs.svg")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert "pip install 'vecpipe[report]'" in done.output
    assert "recall" not in done.output


def test_codecs_are_measured_and_drawn(data):
    pytest.importorskip("matplotlib")
    picture = data / "codecs.svg"
    done = CliRunner().invoke(
        main, ["bench", "codecs", "--data", str(data), "--budgets", "4", "--picture", str(picture)]
    )
    assert done.exit_code == 0, done.output
    for name in ("transform_code(4)", "osq(4)", "int8", "rabitq(4)"):
        assert name in done.output
    assert picture.stat().st_size > 1_000


def test_polars_is_measured_against_numpy():
    done = CliRunner().invoke(main, ["bench", "polars", "--rows", "10000", "--dim", "16", "--runs", "1"])
    assert done.exit_code == 0, done.output
    assert "recall@10 1.000" in done.output
    assert "knn_join" in done.output


def test_without_polars_its_benchmark_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    done = CliRunner().invoke(main, ["bench", "polars", "--rows", "10000", "--dim", "16"])
    assert done.exit_code == 1
    assert "pip install 'vecpipe[polars]'" in done.output

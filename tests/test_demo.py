"""The demo on a part of its texts: what it measures, what it leaves, what it refuses."""

import duckdb
import pytest
from click.testing import CliRunner

import vecpipe
from vecpipe.cli import main
from vecpipe.corpus import LONGEST, SHORTEST, gather
from vecpipe.demo import DIM, SPECS, ask_sql, demonstrate
from vecpipe.errors import InputError


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    said: list[str] = []
    path = tmp_path_factory.mktemp("demo") / "demo.duckdb"
    return demonstrate(path, documents=900, queries=20, report=said.append), said


def test_reranking_finds_nearly_all_of_the_exact_answers(done):
    found, _ = done
    assert found.documents == 880
    assert [m.spec for m in found.measured] == list(SPECS.values())
    for measured in found.measured:
        assert measured.recall_reranked >= measured.recall
        assert measured.recall_reranked >= 0.95
        assert measured.ratio == pytest.approx(4 * DIM / measured.bytes_per_vector)
    assert found.measured[0].recall >= 0.95


def test_questions_are_answered_with_functions(done):
    found, _ = done
    top = {answer.question: [name for _, name, _, _ in answer.found] for answer in found.answers}
    assert any("split" in name or "partition" in name for name in top["split a string by a separator"])


def test_what_it_leaves_can_be_asked_on(done):
    found, said = done
    con = vecpipe.connect(found.database)
    try:
        assert len(con.execute(ask_sql("a list in reverse order", 5)).fetchall()) == 5
        assert {row[0] for row in con.execute("SELECT name FROM vec_models()").fetchall()} == set(SPECS)
        assert con.execute("SELECT count(*) FROM docs WHERE code_int8 IS NULL").fetchall() == [(0,)]
        held_out = "SELECT count(*) FROM docs WHERE id IN (SELECT id FROM queries)"
        assert con.execute(held_out).fetchall() == [(0,)]
    finally:
        con.close()
    assert any("vec_fit_query" in text for text in said)


def test_the_command_prints_a_table_and_replaces_only_its_own_file(tmp_path):
    path = tmp_path / "d.duckdb"
    arguments = ["demo", "--db", str(path), "--documents", "250", "--queries", "5"]
    for _ in range(2):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
    assert "recall@10" in result.stdout
    assert "normalize | int8" in result.stdout
    assert "vecpipe sql --db" in result.stdout
    con = duckdb.connect(str(path))
    con.execute("CREATE TABLE mine AS SELECT 1 AS a")
    con.close()
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert "the demo did not make main.mine" in refused.stderr
    assert duckdb.connect(str(path), read_only=True).execute("SELECT a FROM mine").fetchall() == [(1,)]


@pytest.mark.parametrize("brings_vecpipe_in", [False, True])
def test_a_database_whose_tables_have_the_demos_names_is_left_alone(tmp_path, brings_vecpipe_in):
    path = tmp_path / "mine.duckdb"
    con = vecpipe.connect(path) if brings_vecpipe_in else duckdb.connect(str(path))
    con.execute("CREATE TABLE docs AS SELECT 'years of work' AS text")
    con.close()
    with pytest.raises(InputError, match=r"not the database of an earlier demo.*another file with --db"):
        demonstrate(path, documents=250, queries=5)
    con = duckdb.connect(str(path), read_only=True)
    assert con.execute("SELECT text FROM docs").fetchall() == [("years of work",)]
    con.close()


def test_a_demo_database_with_a_view_or_a_model_of_the_users_is_left_alone(tmp_path):
    path = tmp_path / "d.duckdb"
    with pytest.raises(InputError, match="stopped here"):
        demonstrate(path, documents=250, queries=5, report=_stop_at("vec_hash_embed"))
    con = vecpipe.connect(path)
    con.execute("CREATE VIEW seen AS SELECT 1 AS a")
    con.execute("SELECT vec_fit_query('mine', 'int8', 'SELECT [1.0, 2.0]::FLOAT[2] AS v')").fetchall()
    con.close()
    with pytest.raises(InputError, match=r"the demo did not make main\.seen, the model mine"):
        demonstrate(path, documents=250, queries=5)


def test_what_an_interrupted_demo_has_left_is_replaced(tmp_path):
    path = tmp_path / "d.duckdb"
    for _ in range(2):
        with pytest.raises(InputError, match="stopped here"):
            demonstrate(path, documents=250, queries=5, report=_stop_at("vec_hash_embed"))
        assert path.exists()


def _stop_at(text):
    def report(line: str) -> None:
        if text in line:
            raise InputError("stopped here")

    return report


def test_too_few_texts_are_refused_and_another_file_is_left_alone(tmp_path):
    with pytest.raises(InputError, match="too few"):
        demonstrate(tmp_path / "d.duckdb", documents=10, queries=20)
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    with pytest.raises(InputError, match="not the database of an earlier demo"):
        demonstrate(other, documents=10, queries=2)
    assert other.read_text() == "mine"


def test_texts_are_real_different_and_the_same_each_time():
    texts = gather(300)
    assert texts == gather(300)
    assert len({document.text for document in texts}) == 300
    assert all(SHORTEST <= len(document.text) <= LONGEST for document in texts)
    assert any(document.name == "str.split" for document in texts)

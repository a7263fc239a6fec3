"""The command line: what each command prints and leaves, exit codes 1 and 2, messages of one paragraph."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import vecpipe
from vecpipe.cli import main
from vecpipe.cli.output import Lines, cell, message
from vecpipe.operators import registry

COMMANDS = ["apply", "demo", "export", "fit", "import", "models", "operators", "search", "show", "sql"]
DIM = 16


def vecpipe_(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def works(*arguments: object, stdin: str | None = None) -> str:
    result = vecpipe_(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def fails(*arguments: object, stdin: str | None = None) -> str:
    """Exit code 1, one message, no traceback."""
    result = vecpipe_(*arguments, stdin=stdin)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("Error: ") or "\nError: " in result.stderr
    assert "Traceback" not in result.output
    return result.stderr


def misused(*arguments: object) -> str:
    result = vecpipe_(*arguments)
    assert result.exit_code == 2, result.output
    return result.stderr


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    X = np.random.default_rng(0).standard_normal((500, DIM), dtype=np.float32)
    emb = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), DIM)
    path = tmp_path / "docs.parquet"
    pq.write_table(pa.table({"id": np.arange(500), "title": [f"row {i}" for i in range(500)], "emb": emb}), path)
    return path


@pytest.fixture
def db(tmp_path: Path, docs: Path) -> Path:
    """A database with a table, codes and the model that wrote them."""
    path = tmp_path / "docs.duckdb"
    con = vecpipe.connect(path)
    con.execute(f"CREATE TABLE docs AS SELECT id, title, emb::FLOAT[{DIM}] AS emb FROM read_parquet('{docs}')")
    con.execute("SELECT vec_fit_query('docs', 'center | int8', 'SELECT emb FROM docs')").fetchall()
    con.execute("ALTER TABLE docs ADD COLUMN code BLOB")
    con.execute("UPDATE docs SET code = vec_encode('docs', emb)")
    con.close()
    return path


# Help ---------------------------------------------------------------------------------------------------------


def test_help_names_every_command_and_version_is_the_librarys():
    text = works("--help")
    for name in COMMANDS:
        assert re.search(rf"^  {name}\b", text, re.MULTILINE), name
    assert works("--version").strip() == f"vecpipe, version {vecpipe.__version__}"


@pytest.mark.parametrize("group", [(), ("bench",)])
def test_no_summary_of_a_command_is_cut(group):
    summaries = works(*group, "--help").partition("Commands:")[2].splitlines()
    assert len(summaries) > 6
    assert not [line for line in summaries if line.endswith(("...", "…"))]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_shows_an_example_of_itself(command):
    assert re.search(rf"^ +(echo .*\| )?vecpipe {command}\b", works(command, "--help"), re.MULTILINE)


def test_the_module_runs_as_a_program_and_help_loads_no_engine_but_duckdb():
    code = (
        "import sys; sys.argv = ['vecpipe', '--help']\n"
        "import runpy\n"
        "try: runpy.run_module('vecpipe', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'polars', 'lancedb', 'sklearn', 'vecpipe.etl', 'vecpipe.demo'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_misuse_exits_with_2():
    misused("nonsense")
    misused("fit", "docs.parquet")
    misused("apply", "a", "b", "c", "--on-invalid", "maybe")
    misused("sql", "--read-only")
    misused("sql", "a.sql", "-c", "SELECT 1")


# Fit, apply, and models ---------------------------------------------------------------------------------------


def test_fit_apply_decode_over_files(tmp_path, docs):
    model, codes, back = tmp_path / "m.vecpipe", tmp_path / "codes.arrow", tmp_path / "back.parquet"
    assert "500 rows" in works("fit", docs, "center | pca(4) | int8", "--out", model)
    assert "exists already" in fails("fit", docs, "center | pca(4) | int8", "--out", model)
    assert "4 bytes a vector" in works("fit", docs, "center | pca(4) | int8", "--out", model, "--overwrite")
    said = works("apply", docs, model, codes, "--drop-vector", "--as", "c", "--keep", "id")
    assert "500 rows, new column c" in said
    works("apply", codes, model, back, "--decode", "--keep", "id")
    assert pq.read_schema(back).names == ["id", "decoded"]


def test_fit_into_a_catalog_and_apply_by_name(tmp_path, docs, db):
    assert "stored in" in works("fit", docs, "pca(4)", "--name", "small", "--db", db)
    assert "version" in works("fit", db, "pca(5)", "--table", "docs", "--column", "emb", "--name", "small")
    works("fit", db, "pca(3)", "--query", "SELECT emb FROM docs WHERE id < 100", "--out", tmp_path / "q.vecpipe")
    works("apply", docs, "small", tmp_path / "out.parquet", "--db", db)
    assert pq.read_schema(tmp_path / "out.parquet").field("vector").type.list_size == 5
    works("apply", db, "docs", tmp_path / "other.duckdb", "--table", "docs", "--into", "codes", "--as", "code2")
    assert "500" in works("sql", "--db", tmp_path / "other.duckdb", "-c", "SELECT count(code2) FROM codes")


def test_fit_says_what_is_missing(docs, db):
    assert "--out FILE" in misused("fit", docs, "pca(4)")
    assert "--db PATH" in misused("fit", docs, "pca(4)", "--name", "m")
    assert "--table or --query" in misused("fit", db, "pca(4)", "--name", "m")
    assert "for DuckDB sources" in misused("fit", docs, "pca(4)", "--table", "docs", "--out", "m")
    assert "did you mean pca" in fails("fit", docs, "pcaa(4)", "--out", "m")
    assert "cannot keep 99" in fails("fit", docs, "pca(99)", "--out", "m", "--progress", "none")
    assert "no such database" in fails("fit", "none.duckdb", "pca(4)", "--table", "docs", "--out", "m")
    assert "no such file" in fails("fit", "none.parquet", "pca(4)", "--out", "m")


def test_fit_finds_where_the_model_cannot_go_before_it_reads_a_row(tmp_path, docs):
    for options, words in (
        (("--out", tmp_path / "none" / "m.vecpipe"), "there is no folder"),
        (("--out", tmp_path), "is a folder"),
        (("--name", "m", "--db", tmp_path / "none" / "m.duckdb"), "there is no folder"),
        (("--name", "m", "--db", docs), "is not a DuckDB database"),
    ):
        said = fails("fit", docs, "pca(4)", *options, "--progress", "lines")
        assert words in said
        assert "rows/s" not in said
    assert "--name is empty" in misused("fit", docs, "pca(4)", "--name", " ", "--db", tmp_path / "m.duckdb")
    named = fails("fit", docs, "int8", "--name", "docs@3", "--db", tmp_path / "m.duckdb")
    assert "what follows @ asks for a version" in named
    assert "fitted on" not in named
    assert not (tmp_path / "m.duckdb").exists()


def test_a_source_that_breaks_off_is_an_error_of_one_paragraph(tmp_path, docs, db):
    damaged = tmp_path / "damaged.parquet"
    data = bytearray(docs.read_bytes())
    data[2_000 : len(data) // 2] = b"\xff" * (len(data) // 2 - 2_000)
    damaged.write_bytes(data)
    for command in (("fit", damaged, "int8", "--out", tmp_path / "m"), ("advise", damaged)):
        assert "damaged.parquet: cannot be read to its end" in fails(*command)
    folder = tmp_path / "folder"
    folder.mkdir()
    damaged.rename(folder / "damaged.parquet")
    assert "folder: cannot be read to its end" in fails("fit", folder, "int8", "--out", tmp_path / "m")
    late = "SELECT emb, CAST(CASE id WHEN 450 THEN 'x' ELSE '1' END AS INTEGER) AS one FROM docs"
    assert "Could not convert string 'x' to INT32" in (said := fails("fit", db, "int8", "--query", late, "--out", "m"))
    assert f"in: {late}" in said
    assert not (tmp_path / "m").exists()


ODD = os.fsdecode(b"d\xff")


@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", f"{ODD}.parquet", "int8", "--out", "m"),
        ("fit", "docs.parquet", "int8", "--out", "m", "--column", ODD),
        ("apply", "docs.parquet", "docs.vecpipe", f"{ODD}.parquet"),
        ("apply", "docs.parquet", "docs.vecpipe", f"{ODD}.duckdb", "--into", "docs"),
        ("apply", "docs.parquet", "docs.vecpipe", "out.parquet", "--as", ODD),
        ("advise", f"{ODD}.parquet"),
        ("sql", "-c", f"SELECT '{ODD}'"),
        ("sql", "--db", f"{ODD}.duckdb", "-c", "SELECT 1"),
        ("search", "docs.duckdb", ODD, "--rerank", "emb", "--query-text", "row"),
    ],
    ids=" ".join,
)
def test_what_is_not_utf8_is_an_error_of_one_paragraph(tmp_path, docs, db, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    works("fit", docs, "int8", "--out", "docs.vecpipe")
    (tmp_path / f"{ODD}.parquet").write_bytes(docs.read_bytes())
    before = set(tmp_path.iterdir())
    fails(*arguments)
    assert set(tmp_path.iterdir()) == before


def test_output_that_cannot_be_written_is_an_error_of_one_paragraph(db):
    if not Path("/dev/full").exists():
        pytest.skip("no device that is always full")
    for command in (("models", db), ("sql", "-c", "SELECT 1"), ("sql", "-c", "SELECT 1", "--format", "csv")):
        with open("/dev/full", "w") as full:
            found = subprocess.run(
                [sys.executable, "-m", "vecpipe", *map(str, command)], stdout=full, stderr=subprocess.PIPE, text=True
            )
        assert (found.returncode, found.stderr.splitlines()[0]) == (1, "Error: [Errno 28] No space left on device")


def test_advise_says_what_is_wrong(docs, db):
    for budget in ("bytes=nan", "bytes=inf", "bytes=many", "size=3"):
        assert "expected bytes=NUMBER" in misused("advise", docs, "--budget", budget)
    assert "needs --table or --query" in misused("advise", db)


def test_apply_refuses_another_model_with_exit_code_1(tmp_path, docs):
    target, works_dir = tmp_path / "out.parquet", tmp_path / "out.parquet.partial"
    first, second = tmp_path / "a.vecpipe", tmp_path / "b.vecpipe"
    works("fit", docs, "int8", "--out", first)
    works("fit", docs, "binary", "--out", second)
    works("apply", docs, first, target, "--progress", "lines")
    assert not works_dir.exists()
    assert "exists already" in fails("apply", docs, second, target)
    assert "1 bytes" not in works("apply", docs, second, target, "--overwrite")
    assert "no such model file" in fails("apply", docs, "nothing", tmp_path / "x.parquet")


def test_progress_lines_tell_rows_and_rate(docs, tmp_path):
    works("fit", docs, "int8", "--out", tmp_path / "m")
    result = vecpipe_(
        "apply", docs, tmp_path / "m", tmp_path / "o.parquet", "--progress", "lines", "--part-rows", "100"
    )
    lines = [line for line in result.stderr.splitlines() if line.startswith("apply: ")]
    assert lines[0].startswith("apply: 0 of 500 rows")
    assert lines[-1].startswith("apply: 500 of 500 rows")
    assert len(lines) == 6


def test_progress_lines_wait_their_time(capsys):
    lines = Lines("fit", 1e9)
    for done in range(0, 101, 10):
        lines(done, 100)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "fit: 0 of 100 rows"
    assert re.fullmatch(r"fit: 100 of 100 rows, [0-9,]+ rows/s, 0 s left", last)


def test_a_single_progress_line_claims_no_rate(capsys):
    Lines("fit", 0.0)(3_000, 3_000)
    assert capsys.readouterr().err == "fit: 3,000 of 3,000 rows\n"


def test_models_show_export_import(tmp_path, db):
    assert "center | int8" in works("models", db)
    (line,) = works("models", db, "--json").splitlines()
    assert json.loads(line)["input_dim"] == DIM
    works("export", db, "docs", tmp_path / "m.vecpipe")
    assert "exists already" in fails("export", db, "docs", tmp_path / "m.vecpipe")
    new = tmp_path / "new.duckdb"
    assert "version 1" in works("import", new, tmp_path / "m.vecpipe", "--name", "copied")
    of_file = json.loads(works("show", tmp_path / "m.vecpipe", "--json"))
    assert of_file == json.loads(works("show", new, "copied", "--json"))
    assert of_file["bytes_per_vector"] == DIM
    text = works("show", db, "docs")
    assert "center" in text
    assert f"{DIM} bytes" in text
    assert of_file["hash"] in text


def test_json_says_hash_of_each_version_and_which_is_current(db):
    works("fit", db, "int8", "--table", "docs", "--name", "docs")
    newest, before = map(json.loads, works("models", db, "--json").splitlines())
    assert [newest["current"], before["current"]] == [True, False]
    assert newest["hash"] == json.loads(works("show", db, "docs", "--json"))["hash"] != before["hash"]


@pytest.mark.filterwarnings("error")
def test_a_warning_made_an_error_is_shown_as_one(tmp_path):
    X = np.random.default_rng(0).standard_normal((3000, 64)) * np.r_[np.ones(8), np.full(56, 1e-2)]
    emb = pa.FixedSizeListArray.from_arrays(pa.array(X.astype(np.float32).ravel()), 64)
    path = tmp_path / "docs.parquet"
    pq.write_table(pa.table({"emb": emb}), path)
    assert "\nError: whitening keeps" in fails("fit", path, "whiten", "--out", tmp_path / "m.vecpipe")
    for call in ("vec_fit(emb, 'whiten')", "vec_fit_sketch(vec_sketch(emb), 'whiten')"):
        said = fails("sql", "-c", f"SELECT {call} FROM '{path}'")
        assert "whitening keeps" in said
        assert "defect" not in said


def test_a_database_without_models_is_an_answer_and_no_database_an_error(tmp_path, db):
    duckdb.connect(str(tmp_path / "plain.duckdb")).close()
    assert "holds no models yet" in works("models", tmp_path / "plain.duckdb")
    assert "vecpipe.models is empty" in fails("show", tmp_path / "plain.duckdb", "docs")
    assert "no such database" in fails("models", tmp_path / "none.duckdb")
    assert "no model is named 'doc'; there are: docs" in fails("show", db, "doc")
    assert "say which model" in misused("show", db)
    (tmp_path / "junk").write_bytes(b"junk")
    assert "junk" in fails("models", tmp_path / "junk")
    fails("show", tmp_path / "junk")
    fails("import", db, tmp_path / "junk")


# Search -------------------------------------------------------------------------------------------------------


def test_search_by_id_vector_and_text(tmp_path, db, docs):
    row = pq.read_table(docs)["emb"][7].as_py()
    (tmp_path / "q.json").write_text(json.dumps(row))
    how = ("--model", "docs", "--code", "code")
    for query in (
        ("--query-id", "7", "--rerank", "emb"),
        ("--query-vector", json.dumps(row)),
        ("--query-vector", f"@{tmp_path / 'q.json'}", "--rerank", "emb"),
    ):
        shown = works("search", db, "docs", *how, *query, "-k", "3")
        assert re.search(r"│ +7 │ row 7 ", shown.splitlines()[3])
        assert "emb" not in shown
        assert len(shown.splitlines()) == 7
    shown = works("search", db, "docs", "--rerank", "emb", "--query-text", "some words", "-k", "2", "--columns", "id")
    assert "title" not in shown


def test_search_says_what_is_wrong(db):
    how = ("--model", "docs", "--code", "code")
    assert "give one query" in misused("search", db, "docs", *how)
    assert "needs the --model" in misused("search", db, "docs", "--code", "code", "--query-id", "1")
    assert "say what to search" in misused("search", db, "docs", "--query-id", "1")
    for vector in ("1,2", "[]", "[true]", "[" * 100_000, f"@{db}", f"@{db}.none"):
        assert "--query-vector" in misused("search", db, "docs", *how, "--query-vector", vector)
    assert "beyond float32" in fails("search", db, "docs", *how, "--query-vector", f"[{'1' * 400}]")
    assert "id holds BIGINT, not vectors" in fails("search", db, "docs", "--rerank", "id", "--query-id", "4")
    assert "no column 'codes'" in fails("search", db, "docs", "--model", "docs", "--code", "codes", "--query-text", "a")
    assert "id = 999" in fails("search", db, "docs", *how, "--rerank", "emb", "--query-id", "999")
    assert "no model is named 'x'" in fails("search", db, "docs", "--model", "x", "--code", "code", "--query-text", "a")
    assert "3 dimensions" in fails("search", db, "docs", *how, "--query-vector", "[1, 2, 3]")


# Operators ----------------------------------------------------------------------------------------------------


def test_operators_lists_the_registry_and_explains_each():
    text = works("operators")
    for name, cls in registry().items():
        assert re.search(rf"\b{name}\b", text)
        explained = works("operators", name)
        assert cls.source in " ".join(explained.split())
        assert "vec_fit_query" in explained
    assert "did you mean pca" in fails("operators", "pcaa")


def test_the_example_of_each_operator_can_be_parsed():
    from vecpipe.spec import parse

    for name in registry():
        found = re.search(r"vec_fit_query\('m', '(.*?)'", works("operators", name))
        assert found is not None
        assert parse(found[1])[0].name == name


# SQL ----------------------------------------------------------------------------------------------------------


def test_sql_from_file_pipe_and_command(tmp_path, db):
    (tmp_path / "a.sql").write_text("SELECT vec_norm([3, 4]::FLOAT[2]) AS norm;")
    assert "5" in works("sql", tmp_path / "a.sql")
    assert works("sql", "-", "--format", "csv", stdin="SELECT 1 AS a, 'x, y' AS b") == 'a,b\n1,"x, y"\n'
    assert works("sql", "--format", "csv", stdin="SELECT 2 AS a") == "a\n2\n"
    assert works("sql", "--format", "json", "-c", "SELECT 1 AS a, 'x'::BLOB AS b") == '{"a": 1, "b": "78"}\n'
    assert "500" in works("sql", "--db", db, "--read-only", "-c", "SELECT count(*) FROM docs")


def test_sql_shows_the_first_rows_and_streams_all_of_them():
    shown = works("sql", "-c", "FROM range(1000)", "--rows", "5")
    assert "the first 5 rows" in shown
    assert "│ 4 " in shown.replace("│     4 ", "│ 4 ")
    assert len(works("sql", "-c", "FROM range(2500)", "--format", "csv").splitlines()) == 2_501


def test_json_keeps_columns_of_equal_names_and_is_json_whatever_the_values():
    query = """SELECT 1 AS a, 2 AS a, 3 AS a_1, 'nan'::FLOAT AS b, ['inf'::DOUBLE, 1.5] AS c,
        MAP {1: 'nan'::FLOAT} AS d, {'x': '-inf'::FLOAT, 'y': '\\xFF'::BLOB} AS e"""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    (line,) = works("sql", "--format", "json", "-c", query).splitlines()
    assert json.loads(line, parse_constant=refuse) == {
        "a": 1,
        "a_2": 2,
        "a_1": 3,
        "b": None,
        "c": [None, 1.5],
        "d": {"1": None},
        "e": {"x": None, "y": "ff"},
    }


def test_sql_counts_changed_rows_and_is_silent_about_the_rest():
    assert works("sql", "-c", "CREATE TABLE t(a INT); INSERT INTO t VALUES (1), (2); SET threads = 2") == (
        works("sql", "-c", "CREATE TABLE t(a INT); INSERT INTO t VALUES (1), (2)")
    )
    assert "2 rows" in works("sql", "-c", "CREATE TABLE t AS SELECT 1 FROM range(2)")
    assert "7" in works("sql", "-c", "CREATE TABLE t(a INT); INSERT INTO t VALUES (7) RETURNING *")


def test_sql_errors_hold_the_failing_statement_in_the_functions_own_words():
    said = fails("sql", "-c", "SELECT 1 AS fine; SELECT vec_encode('x', [1.0::FLOAT]) AS broken")
    assert "no model is named 'x'; vecpipe.models is empty" in said
    assert "in statement 2 of 2:\nSELECT vec_encode('x', [1.0::FLOAT]) AS broken" in said
    assert "UDF" not in said
    assert "nothing was run" in fails("sql", "-c", "CREATE TABLE t(a INT); SELEC 1")
    assert "cannot be read" in fails("sql", "none.sql")
    assert "no such database" in fails("sql", "--db", "none.duckdb", "--read-only", "-c", "SELECT 1")


def test_a_database_that_never_saw_vecpipe_can_be_used_read_only(tmp_path):
    path = tmp_path / "plain.duckdb"
    with duckdb.connect(str(path)) as con:
        con.execute("CREATE TABLE docs AS SELECT i AS id, [i, 1, 2]::FLOAT[3] AS emb FROM range(50) r(i)")
    before = path.read_bytes()
    statements = (
        "SELECT vec_fit_query('m', 'normalize | float16', 'SELECT emb FROM docs');"
        "SELECT count(vec_encode('m', emb)) AS n FROM docs; SELECT name FROM vec_models();"
    )
    assert "50" in works("sql", "--db", path, "--read-only", "-c", statements)
    assert "score" in works("search", path, "docs", "--rerank", "emb", "--query-id", "7")
    works("fit", path, "pca(2)", "--table", "docs", "--out", tmp_path / "m.vecpipe")
    assert path.read_bytes() == before


def test_sql_read_only_refuses_to_write(db):
    assert "read-only" in fails("sql", "--db", db, "--read-only", "-c", "CREATE TABLE t(a INT)")


pty = pytest.importorskip("pty") if sys.platform != "win32" else None


def at_the_prompt(tmp_path: Path, typed: bytes) -> str:
    """Return what a terminal shows; the program must leave by itself, with exit code 0."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}
    command = [sys.executable, "-m", "vecpipe", "sql"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    os.write(ours, typed)
    output = b""
    while True:
        try:
            found = os.read(ours, 65_536)
        except OSError:  # the other end is closed: the program has left
            break
        if not found:
            break
        output += found
    process.wait()
    os.close(ours)
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.mark.skipif(pty is None, reason="no pseudo-terminals on this system")
def test_the_prompt_runs_statements_survives_errors_and_keeps_a_history(tmp_path):
    typed = b"SELECT 6 *\n7 AS answer;\nSELECT nonsense;\nSELECT 'still here' AS said;\n.quit\n"
    output = at_the_prompt(tmp_path, typed)
    assert "42" in output
    assert "nonsense" in output
    assert "still here" in output
    assert "still here" in (tmp_path / "vecpipe" / "history").read_text()


@pytest.mark.skipif(pty is None, reason="no pseudo-terminals on this system")
@pytest.mark.parametrize("leave", ["exit", "quit;", ".exit", "SELECT 1\n.quit"])
def test_the_prompt_helps_knows_its_commands_and_leaves_when_told(tmp_path, leave):
    typed = f".help\n.tables\nSELECT 6 *\n.help\n7 AS\nexit;\n{leave}\nSELECT 'late' AS late;\n\x04\x04"
    output = at_the_prompt(tmp_path, typed.encode())
    assert output.count("Ctrl-D    leave") == 2
    assert "no such command: .tables" in output
    assert "42" in output
    assert "late" not in output.partition("42")[2]


# Cells --------------------------------------------------------------------------------------------------------


def test_cells_are_short():
    assert cell(None) == ""
    assert cell(b"\x00\xff") == "00 ff (2 bytes)"
    assert cell(bytes(100)) == "00 00 00 00 00 00 00 00 … (100 bytes)"
    assert cell([0.5] * 10) == "[0.5, 0.5, 0.5, 0.5, … 10]"
    assert cell("a\nb") == "a b"
    assert len(cell("x" * 500)) == 100


def test_messages_lose_what_the_engine_puts_around_them():
    inner = "Invalid Input Error: Python exception occurred while executing the UDF: InputError: row 3 holds NaN"
    assert message(Exception(inner)) == "row 3 holds NaN"
    assert message(Exception("plain")) == "plain"


def test_no_model_is_written_over_what_it_is_made_of(docs: Path, db: Path, tmp_path: Path) -> None:
    works("fit", db, "int8", "--table", "docs", "--name", "m")
    for command in (
        ("fit", docs, "int8", "--out", docs),
        ("fit", db, "int8", "--table", "docs", "--out", db),
        ("fit", docs, "int8", "--name", "n", "--db", db, "--out", db),
        ("export", db, "m", db),
    ):
        path = Path(command[-1])
        before = path.read_bytes()
        assert "a file of its own" in fails(*command, "--overwrite")
        assert path.read_bytes() == before


def test_codes_are_not_decoded_by_another_model_than_their_file_names(docs: Path, tmp_path: Path) -> None:
    mine, other, coded = (tmp_path / name for name in ("mine.vecpipe", "other.vecpipe", "coded.parquet"))
    works("fit", docs, "int8", "--out", mine)
    works("fit", docs, "center | int8", "--out", other)
    works("apply", docs, mine, coded)
    said = fails("apply", coded, other, tmp_path / "back.parquet", "--decode", "--column", "code")
    assert "says that its codes are by the model 'int8'" in " ".join(said.split())
    assert not (tmp_path / "back.parquet").exists()
    works("apply", coded, mine, tmp_path / "back.parquet", "--decode", "--column", "code")

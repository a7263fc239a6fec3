"""The package as a whole: what importing it loads, what a wheel holds, and that every public name is explained."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import vecpipe
from vecpipe import doctor, errors

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(vecpipe.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = {"lancedb", "polars", "torch", "sklearn", "scipy", "pandas", "pyspark", "dbt", "matplotlib", "faiss", "rich"}


def modules() -> list[str]:
    return ["vecpipe", *(module.name for module in pkgutil.walk_packages(vecpipe.__path__, "vecpipe."))]


def test_importing_vecpipe_loads_no_extra_and_opens_no_database():
    code = (
        "import sys; before = set(sys.modules); import vecpipe; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & EXTRAS
    assert {"vecpipe", "numpy", "pyarrow", "duckdb"} <= loaded


def test_importing_vecpipe_prints_nothing_and_warns_of_nothing():
    done = subprocess.run([sys.executable, "-W", "error", "-c", "import vecpipe"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_module_of_the_core_mentions_an_extra():
    pattern = re.compile(rf"(?m)^(?:import|from) ({'|'.join(EXTRAS - {'rich'})})\b")
    for path in PACKAGE.rglob("*.py"):
        found = pattern.search(path.read_text())
        engine = path.relative_to(PACKAGE).as_posix().startswith("engines/")
        assert found is None or engine, f"{path}: {found and found.group()}"


@pytest.mark.parametrize("name", vecpipe.__all__)
def test_every_public_name_is_there_and_explained(name):
    thing = getattr(vecpipe, name)
    if name == "__version__":
        return
    assert inspect.getdoc(thing), f"{name} has no docstring"
    if inspect.isclass(thing):
        for method, value in vars(thing).items():
            if not method.startswith("_") and callable(getattr(thing, method)):
                assert inspect.getdoc(value), f"{name}.{method} has no docstring"


def test_public_names_are_sorted_and_all_of_them_are_listed():
    assert list(vecpipe.__all__) == sorted(vecpipe.__all__)
    public = {
        name for name in vars(vecpipe) if not name.startswith("_") and not inspect.ismodule(getattr(vecpipe, name))
    }
    assert public - {"annotations"} <= set(vecpipe.__all__)


def test_every_error_and_warning_can_be_imported_from_the_package():
    there = {name for name, thing in vars(errors).items() if inspect.isclass(thing) and issubclass(thing, Exception)}
    assert there <= set(vecpipe.__all__)


@pytest.mark.parametrize("name", modules())
def test_every_module_says_what_lives_in_it(name):
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    text = Path(spec.origin).read_text()
    assert not text.strip() or text.lstrip().startswith(('"""', "'''")), f"{name} begins with no docstring"


def test_no_module_is_long():
    for path in PACKAGE.rglob("*.py"):
        lines = len(path.read_text().splitlines())
        assert lines <= 350, f"{path.relative_to(PACKAGE)} has {lines} lines; split it"


def floors() -> dict[str, int]:
    """The folders and modules in the table of docs/how-it-works.md, with the number of their row from the top."""
    text = (ROOT / "docs" / "how-it-works.md").read_text().partition("## Where things are")[2]
    rows = [row.split("|")[1] for row in text.splitlines() if row.startswith("| `")]
    return {name: floor for floor, row in enumerate(rows) for name in re.findall(r"`([^`]+)`", row)}


def imported(path: Path) -> set[str]:
    """The modules of the package that a module imports, as paths; those for types alone too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vecpipe":
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.partition(".")[2].replace(".", "/") for name in names}


def test_the_docs_name_every_folder_and_no_module_imports_what_stands_above_it_there():
    found = floors()
    assert all((PACKAGE / name).exists() for name in found)
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == {name.split("/")[0] for name in found if name.endswith("/")}
    seen = 0
    for name, floor in found.items():
        for path in (PACKAGE / name).rglob("*.py") if name.endswith("/") else [PACKAGE / name]:
            for other, below in found.items():
                for taken in imported(path):
                    if taken.startswith(other) or taken.split("/")[0] + ".py" == other:
                        seen += 1
                        assert below >= floor, f"{path.relative_to(PACKAGE)} imports {taken}, which stands above it"
    assert seen > 300


def test_the_library_prints_nothing_and_evaluates_nothing():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert "pickle" not in text or "no pickle" in text, path
        assert not re.search(r"(?<![\w.])(?:eval|exec)\(", text), path


def strings_of(path: Path) -> list[tuple[int, str]]:
    """The strings of a module and their lines, docstrings apart; what an f-string fills in is ``{}``."""
    tree = ast.parse(path.read_text())
    apart = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            apart.update(id(part) for part in node.values)
            parts = [str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values]
            found.append((node.lineno, "".join(parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in apart:
            found.append((node.lineno, node.value))
    return found


def test_macros_and_queries_of_many_clauses_live_in_sql_files():
    from vecpipe.engines.duckdb.macros import catalog_sql, macro_sql, sql_folder

    assert (sql_folder() / "catalog.sql").is_file()
    assert "vecpipe.models" in catalog_sql()
    assert "vec_search" in macro_sql()
    assert macro_sql().rstrip().endswith(";")
    definition = re.compile(r"CREATE (?:OR REPLACE )?(?:TEMP )?(?:MACRO|FUNCTION|TYPE|SEQUENCE)\s+\w|CREATE SCHEMA IF")
    clauses = re.compile(r"(?s)\b(?:SELECT|FROM)\b.*\b(?:JOIN|LATERAL|GROUP BY|OVER|UNION|QUALIFY)\b|\bWITH \w+ AS\b")
    seen = 0
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith("bench/"):  # measures what others would write
            continue
        for line, text in strings_of(path):
            seen += "SELECT " in text
            found = clauses.search(text) or (name != "engines/duckdb/macros.py" and definition.search(text))
            assert not found, f"{name}:{line} writes SQL that belongs into sql/: {text[:80]!r}"
    assert seen > 20


def test_the_version_is_the_same_everywhere():
    assert vecpipe.__version__ == PROJECT["project"]["version"]
    assert importlib.metadata.version("vecpipe") == vecpipe.__version__
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert vecpipe.__version__ in changes or "## Unreleased" in changes


def test_the_package_is_typed_and_its_promises_about_dependencies_hold():
    assert (PACKAGE / "py.typed").is_file()
    core = {re.split(r"[<>=~ \[]", line)[0] for line in PROJECT["project"]["dependencies"]}
    assert core == {"numpy", "pyarrow", "duckdb", "safetensors", "numkong", "threadpoolctl", "click", "rich"}
    assert PROJECT["project"]["requires-python"] == ">=3.11"


def test_every_extra_brings_what_some_code_imports_and_the_doctor_looks_for():
    imported_as = {"pylance": "lance", "scikit-learn": "sklearn", "faiss-cpu": "faiss"}
    extras = {name: wanted for name, wanted in PROJECT["project"]["optional-dependencies"].items() if name != "dev"}
    brought = {re.split(r"[<>=~ \[]", line)[0] for wanted in extras.values() for line in wanted}
    code = "\n".join(path.read_text() for folder in (PACKAGE, ROOT / "tests") for path in folder.rglob("*.py"))
    for name in brought:
        module = imported_as.get(name, name.replace("-", "_"))
        assert re.search(rf"(?m)^ *(?:import|from) {module}\b", code), f"nothing imports {module}"
    assert set(doctor._EXTRAS) == brought


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this system")
def test_make_demo_installs_no_more_than_the_package_and_make_test_adds_what_is_missing(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()

    def installs(target: str) -> list[str]:
        done = subprocess.run(["make", "-n", target], cwd=tmp_path, capture_output=True, text=True, check=True)
        return [line.partition(" install ")[2] for line in done.stdout.splitlines() if " install " in line]

    assert len(installs("demo")) == 2
    assert "dev" not in "".join(installs("demo"))
    first = installs("test")
    assert first[:2] == installs("demo")
    assert "[dev]" in first[2]
    (tmp_path / ".venv" / ".light").touch()
    assert installs("demo") == []
    assert installs("test") == first[2:]
    (tmp_path / ".venv" / ".ready").touch()
    assert installs("demo") == installs("test") == installs("lint") == []


def test_a_wheel_holds_the_sql_the_type_marker_and_the_licence_and_works_from_there(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr}\nthe tests need what pip install -e '.[dev]' installs"
    wheel = zipfile.ZipFile(next(tmp_path.glob("vecpipe-*.whl")))
    names = wheel.namelist()
    for folder, start in ((PACKAGE, "vecpipe/"), (ROOT / "sql", "vecpipe/sql/")):
        for path in folder.rglob("*"):
            if path.suffix in (".py", ".sql", ".typed"):
                assert wheel.read(start + path.relative_to(folder).as_posix()) == path.read_bytes()
    assert "vecpipe/py.typed" in names
    (licence,) = (name for name in names if name.endswith(".dist-info/licenses/LICENSE"))
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert {name.split("/")[0] for name in names} == {"vecpipe", f"vecpipe-{vecpipe.__version__}.dist-info"}
    wheel.extractall(tmp_path / "installed")
    code = "import vecpipe; print(vecpipe.__file__, vecpipe.connect().execute('SELECT vec_norm([3, 4])').fetchall())"
    where = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=tmp_path, env=where, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "installed/vecpipe/__init__.py"), "[(5.0,)]"]

"""Changing the model of a column: what readers see before and after, the audit, going back, interruptions."""

from __future__ import annotations

import math

import lancedb
import numpy as np
import pytest
from lancedb_data import DATA, check, fitted, make_table, rows

import vecpipe.lancedb as vl
from vecpipe.engines.lancedb.audit import audit
from vecpipe.errors import CapabilityError, EngineError, InputError, RecallError

OLD, NEW = fitted("center | binary", seed=3), fitted("normalize | int8", seed=3)


@pytest.fixture
def db(tmp_path):
    return lancedb.connect(tmp_path / "db")


@pytest.fixture
def table(db):
    found = make_table(db)
    vl.add_column(found, "code", OLD)
    return found


def specs(table) -> dict[str, str]:
    listed = vl.list_columns(table)
    return dict(zip(listed["column"].to_pylist(), listed["spec"].to_pylist(), strict=True))


def test_a_migration_fills_audits_and_swaps(db, table):
    done = vl.migrate(table, "code", NEW)
    assert (done.rows, done.cut_over, done.behind) == (1_980, True, 0)
    assert 0 < done.before < done.after <= 1
    assert done.after > 0.8
    check(table, "code", NEW)
    check(table, "code_previous", OLD)
    statuses = {name: table.schema.field(name).metadata[b"lancedb:status"] for name in ("code", "code_previous")}
    assert statuses == {"code": b"production", "code_previous": b"deprecated"}
    assert vl.load_model(db, "docs.code").hash == NEW.hash
    vl.finish_migration(table, "code")
    assert table.schema.names == ["id", "vector", "note", "code"]
    check(table, "code", NEW)


def test_the_names_are_swapped_in_one_version(table):
    done = vl.migrate(table, "code", NEW, cut_over=False)
    assert not done.cut_over
    seen = set()
    start = table.version
    vl.migrate(table, "code", NEW)
    for version in range(start, table.version + 1):
        table.checkout(version)
        seen.add(tuple(sorted(specs_at(table).items())))
    table.checkout_latest()
    assert seen == {
        (("code", OLD.spec), ("code_next", NEW.spec)),
        (("code", NEW.spec), ("code_previous", OLD.spec)),
    }


def specs_at(table) -> dict[str, str]:
    about = {field.name: field.metadata for field in table.schema if field.metadata}
    return {name: found[b"vecpipe:spec"].decode() for name, found in about.items()}


def test_an_undone_migration_gives_the_old_values_for_new_rows_too(db, table):
    vl.migrate(table, "code", NEW)
    table.add(rows(2_000, 2_040))
    vl.undo_migration(table, "code")
    check(table, "code", OLD)
    assert vl.load_model(db, "docs.code").hash == OLD.hash
    assert specs(table) == {"code": OLD.spec, "code_next": NEW.spec}
    done = vl.migrate(table, "code", NEW)
    assert done.rows == 40
    check(table, "code", NEW)


def test_a_worse_model_is_not_switched_to(db, table):
    vl.migrate(table, "code", NEW)
    vl.finish_migration(table, "code")
    with pytest.raises(RecallError, match=r"recall@10 of 'center \| binary' is 0\.\d+ .* asked for 0\.\d+"):
        vl.migrate(table, "code", OLD)
    check(table, "code", NEW)
    assert vl.load_model(db, "docs.code").hash == NEW.hash
    assert specs(table) == {"code": NEW.spec, "code_next": OLD.spec}
    assert vl.migrate(table, "code", OLD, min_recall=0.1).cut_over


def test_queries_of_your_own_are_what_the_audit_asks(table):
    easy = vl.migrate(table, "code", NEW, queries=DATA[3_000:3_020], cut_over=False)
    hard = vl.migrate(table, "code", NEW, queries=-(DATA[3_000:3_020] ** 3), metric="ip", k=3, cut_over=False)
    assert easy.rows == 1_980
    assert (easy.before, easy.after) != (hard.before, hard.after)


def test_an_interrupted_migration_goes_on(table, monkeypatch):
    def stop(done: int, total: int) -> None:
        if done >= 1_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vl.migrate(table, "code", NEW, part_rows=100, threads=1, progress=stop)
    assert specs(table) == {"code": OLD.spec}
    real = type(table).alter_columns

    def crash(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(table), "alter_columns", crash)
        with pytest.raises(KeyboardInterrupt):
            vl.migrate(table, "code", NEW)
    table.add(rows(2_000, 2_010))
    done = vl.migrate(table, "code", NEW)
    assert done.cut_over
    assert math.isnan(done.after)
    check(table, "code", NEW)


def test_values_that_are_not_the_models_are_found(table):
    vl.migrate(table, "code", NEW, cut_over=False)
    table.update(where="id >= 0", values={"code_next": bytes(16)})
    broken = table.to_lance()
    assert broken.count_rows() == 1_980
    with pytest.raises(EngineError, match="'code_next' does not hold what"):
        audit(table, "vector", ("code", OLD), ("code_next", NEW), "cosine", 10, 500, None)
    assert vl.migrate(table, "code", NEW).cut_over, "the fill rewrites rows that were updated"
    check(table, "code", NEW)


def test_raw_vectors_are_mapped_and_codes_made_from_them_follow_the_old_ones(db, table):
    before = table.to_arrow()["vector"]
    turn = fitted("rotate")
    done = vl.migrate(table, "vector", turn)
    assert vl.load_model(db, "docs.vector").hash == turn.hash
    assert done.before == 1
    assert done.after > 0.99
    assert table.to_arrow()["vector_previous"] == before
    check(table, "vector", turn, source="vector_previous")
    assert specs(table) == {"code": OLD.spec}
    assert vl.list_columns(table)["source"].to_pylist() == ["vector_previous"]
    assert vl.refresh(table, "code").rows == 0
    with pytest.raises(InputError, match="no model writes the column 'vector'"):
        vl.refresh(table, "vector")
    with pytest.raises(InputError, match="code of 'docs' are made from 'vector_previous'"):
        vl.finish_migration(table, "vector")
    vl.undo_migration(table, "vector")
    assert table.to_arrow()["vector"] == before
    check(table, "code", OLD)


def test_raw_vectors_written_since_the_swap_are_not_lost_by_going_back(table):
    vl.migrate(table, "vector", fitted("rotate"))
    table.add([{"id": 7_000, "vector": np.ones(16, np.float32), "note": "new space"}])
    with pytest.raises(InputError, match="1 rows were written to 'vector' since the swap"):
        vl.undo_migration(table, "vector")
    vl.drop(table, "code")
    vl.finish_migration(table, "vector")
    assert table.schema.names == ["id", "note", "vector"]
    assert table.search(np.ones(16)).limit(1).to_list()[0]["id"] == 7_000


def test_what_cannot_be_migrated_says_why(table):
    cases = [
        (lambda: vl.migrate(table, "nope", NEW), InputError, "no column 'nope'"),
        (lambda: vl.migrate(table, "vector", NEW), CapabilityError, "holds raw vectors"),
        (lambda: vl.migrate(table, "code", OLD), InputError, "is written by model .* already"),
        (lambda: vl.undo_migration(table, "code"), InputError, "no migration of 'code' is open"),
        (lambda: vl.finish_migration(table, "code"), InputError, "no migration of 'code' is open"),
        (
            lambda: vl.migrate(table, "code", NEW, queries=DATA[:3, :4]),
            InputError,
            "queries has 4 dimensions",
        ),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()
    vl.migrate(table, "code", NEW)
    with pytest.raises(
        InputError, match=r"earlier migration of 'code' .* is not finished: finish_migration\(table, 'code'"
    ):
        vl.migrate(table, "code", fitted("int4"))


def test_a_migration_that_was_not_cut_over_is_not_taken_for_one_to_another_model(table):
    vl.migrate(table, "code", NEW, cut_over=False)
    unfinished = (
        rf"earlier migration of 'code' of 'docs' .* \({NEW.hash}\), is not finished: .* drop\(table, 'code_next'"
    )
    with pytest.raises(InputError, match=unfinished):
        vl.migrate(table, "code", fitted("int4"))
    assert vl.migrate(table, "code", NEW).cut_over
    vl.undo_migration(table, "code")
    with pytest.raises(InputError, match=unfinished):
        vl.migrate(table, "code", fitted("int4"))
    vl.drop(table, "code_next")
    assert vl.migrate(table, "code", fitted("int4"), min_recall=0).cut_over


def test_a_name_that_asks_for_a_version_is_refused_before_anything_is_written(db, table):
    before = table.version
    with pytest.raises(InputError, match="model name 'new@3': what follows @ asks for a version"):
        vl.migrate(table, "code", NEW, name="new@3")
    with pytest.raises(InputError, match="a name cannot end in it"):
        vl.add_column(table, "more", NEW, name="new@3")
    with pytest.raises(InputError, match="a name cannot end in it"):
        vl.save_model(db, "new@3", NEW)
    assert table.version == before
    assert "new@3" not in vl.list_models(db)["name"].to_pylist()

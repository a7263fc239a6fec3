-- Resident indexes: the codes of a table held in memory, searched with vec_search(..., index := name).

-- Read the vectors of a table once, hold their codes in memory, and save them beside a database that is a file. The
-- model must end in a codec; with a step cells(n), a search reads the nearest cells alone. Calling it again replaces
-- the index. Rows that are added, changed or deleted later need no call: searches see the table as it is. The
-- table is read in a connection of its own: a temporary one cannot be, and one that hides a table of its name is not
-- looked at.
CREATE OR REPLACE MACRO vec_index(name, source, model, emb := 'emb') AS
    _vec_index(name, source, model, emb, current_setting('search_path'));

-- Forget a resident index and its file; whether there was one.
CREATE OR REPLACE MACRO vec_index_drop(name) AS
    _vec_index_drop(name, current_database());

-- The indexes in memory: rows and bytes they hold, the number of the last row they know of, and whose they are.
-- Returns: name, source, spec, rows, bytes, last_row, cells, database
CREATE OR REPLACE MACRO vec_indexes() AS TABLE
    SELECT unnest(_vec_indexes(NULL), recursive := true);

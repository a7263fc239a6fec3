-- Resident indexes: the codes of a table held in memory, searched with vec_search(..., index := name).

-- Read the vectors of a table once, hold their codes in memory, and save them beside a database that is a file. The
-- model must end in a codec; with a step cells(n), a search reads the nearest cells alone. Calling it again replaces
-- the index. Rows that are added, changed or deleted later need no call: searches see the table as it is.
CREATE OR REPLACE MACRO vec_index(name, source, model, emb := 'emb') AS
    _vec_index(name, source, model, emb);

-- The indexes in memory: rows and bytes they hold, and the number of the last row they know of.
-- Returns: name, source, spec, rows, bytes, last_row, cells
CREATE OR REPLACE MACRO vec_indexes() AS TABLE
    SELECT unnest(_vec_indexes(NULL), recursive := true);

-- Cells: an inverted file as an ordinary column.

-- The cell a vector lies in, by a model with a step cells(n): 0 to n - 1, NULL where the vector has no direction.
CREATE OR REPLACE MACRO vec_cell(model, v, on_invalid := 'error') AS
    _vec_cell(_vec_model(model), v, on_invalid);

-- The cells nearest to a query, nearest first.
CREATE OR REPLACE MACRO vec_probe(model, q, nprobe := 16) AS
    _vec_probe(_vec_model(model), q, nprobe);

-- What recall and times are held against: DuckDB's own function over all rows.
SELECT id FROM docs ORDER BY array_cosine_distance(emb, $q::FLOAT[512]) LIMIT $k;

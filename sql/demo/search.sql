-- The k nearest rows: by code, by code with the best scored again on the raw vectors, or exactly.
SELECT id, package, name, text, score
FROM vec_search('docs', $q, model := $model, code := $code, rerank := $rerank, k := $k);

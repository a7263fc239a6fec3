-- One pass over the vectors; the model lands in vecpipe.models of this database.
SELECT vec_fit_query($1, $2, 'SELECT emb FROM docs');

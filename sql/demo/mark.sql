-- What a later run knows this file by: no other database is ever replaced.
COMMENT ON TABLE vecpipe.models IS 'This database was made by vecpipe demo, which may replace it.';

-- What a database holds, and whether it has the mark that mark.sql leaves.
SELECT schema_name || '.' || table_name AS name,
       coalesce(comment, '') = 'This database was made by vecpipe demo, which may replace it.' AS marked
FROM duckdb_tables() WHERE database_name = current_database()
UNION ALL
SELECT schema_name || '.' || view_name, false
FROM duckdb_views() WHERE database_name = current_database() AND NOT internal
ORDER BY name;

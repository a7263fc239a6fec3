"""LanceDB: models in a table of the same database, columns kept by a model, and the migration between two of them."""

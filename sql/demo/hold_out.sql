DELETE FROM docs WHERE id IN (SELECT id FROM queries);

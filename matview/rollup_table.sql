-- Room on each page keeps updates on the page (HOT): no measure is indexed. NULLS NOT DISTINCT
-- makes NULL a group. A key that may be NULL is no replica identity, and without one a publication
-- of updates refuses every merge: the whole old row identifies it.
CREATE TABLE {table} ({columns}) WITH (fillfactor = {fill});
CREATE UNIQUE INDEX ON {table} ({keys}) NULLS NOT DISTINCT;
ALTER TABLE {table} REPLICA IDENTITY FULL;

-- Room on each page keeps updates on the page (HOT): no measure is indexed. NULLS NOT DISTINCT
-- makes NULL a group. A key that may be NULL is no replica identity, and without one a publication
-- of updates refuses every merge: the whole old row identifies it.
CREATE TABLE {rollup} ({columns}) WITH (fillfactor = 80);
CREATE UNIQUE INDEX ON {rollup} ({keys}) NULLS NOT DISTINCT;
ALTER TABLE {rollup} REPLICA IDENTITY FULL;

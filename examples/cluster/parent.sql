-- The table over all nodes, on the coordinator: a parent with a foreign partition for each
-- Postgres. A query that names the node reads that one alone; others run on all nodes at once.
CREATE EXTENSION IF NOT EXISTS postgres_fdw;
CREATE SCHEMA cluster;
CREATE TABLE cluster.orders (node int NOT NULL, LIKE public.orders) PARTITION BY LIST (node);

-- What came and what went.
SELECT 1 AS {sign}, {columns} FROM promoted
UNION ALL
SELECT -1, {columns} FROM replaced AS promoted

-- The promoted rows are added, and those that they replaced are subtracted.
SELECT 1 AS {sign}, {columns} FROM promoted
UNION ALL
SELECT -1, {columns} FROM replaced AS promoted

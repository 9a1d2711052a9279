-- Sales by day (UTC) and product. Unique: day, product_id.
-- The name is aggregated, not grouped by: a product that is renamed stays one row a day.
SELECT (ordered_at AT TIME ZONE 'UTC')::date AS day,
       product_id,
       max(product_name)                     AS product_name,
       count(*)                              AS orders,
       sum(quantity)                         AS units,
       sum(total_usd)                        AS revenue_usd
FROM orders
GROUP BY 1, 2

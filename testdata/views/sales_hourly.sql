-- Sales by hour (UTC) and category. Unique: hour, category.
SELECT date_trunc('hour', ordered_at, 'UTC') AS hour,
       category,
       count(*)                              AS orders,
       sum(quantity)                         AS units,
       sum(total_usd)                        AS revenue_usd,
       round(avg(total_usd), 2)              AS average_usd,
       count(DISTINCT customer_id)           AS customers
FROM orders
GROUP BY 1, 2

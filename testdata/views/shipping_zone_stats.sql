-- Sales by shipping zone and country. Unique: shipping_zone, country.
SELECT shipping_zone,
       country,
       count(*)                    AS orders,
       sum(total_usd)              AS revenue_usd,
       round(avg(total_usd), 2)    AS average_usd,
       count(DISTINCT customer_id) AS customers
FROM orders
GROUP BY 1, 2

-- The tables of the example programs. Every statement may run again.

-- What an order is looked up in. Small, read into memory as snapshots.
CREATE TABLE IF NOT EXISTS product_catalog (
    product_id text          PRIMARY KEY,
    name       text          NOT NULL,
    category   text          NOT NULL,
    base_price numeric(12,4) NOT NULL CHECK (base_price >= 0)
);

-- per_usd is units per US dollar: 149.5 yen buy one dollar. An amount is DIVIDED by it.
CREATE TABLE IF NOT EXISTS currency_rates (
    currency text          PRIMARY KEY,
    per_usd  numeric(16,6) NOT NULL CHECK (per_usd > 0)
);

CREATE TABLE IF NOT EXISTS zip_code_zones (
    zip           text PRIMARY KEY,
    city          text NOT NULL,
    state         text NOT NULL,
    country       text NOT NULL,
    time_zone     text NOT NULL,
    shipping_zone text NOT NULL
);

-- The durable table: one row for each order, enriched.
CREATE TABLE IF NOT EXISTS orders (
    order_id      text          COLLATE "C" PRIMARY KEY, -- sorts faster than most locales do
    customer_id   text          NOT NULL,
    product_id    text          NOT NULL,
    product_name  text          NOT NULL,
    category      text          NOT NULL,
    quantity      integer       NOT NULL,
    unit_price    numeric(12,4) NOT NULL,
    currency      text          NOT NULL,
    total_usd     numeric(14,2) NOT NULL,
    zip           text          NOT NULL,
    city          text          NOT NULL,
    state         text          NOT NULL,
    country       text          NOT NULL,
    shipping_zone text          NOT NULL,
    ordered_at    timestamptz   NOT NULL,
    processed_at  timestamptz   NOT NULL,
    raw           jsonb
);

-- The only further index. A block-range index costs a promotion next to nothing and
-- serves "the last day"; dashboards read the views and need no index on this table.
CREATE INDEX IF NOT EXISTS orders_ordered_at ON orders USING brin (ordered_at);

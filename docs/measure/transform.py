"""Decode and enrich the same orders with Polars and with headrace's example, and print both times.

    python3 -m venv venv && venv/bin/pip install -r docs/measure/requirements.txt
    venv/bin/python docs/measure/transform.py [ORDERS]      # from the root of the repository

Both read the same NDJSON file. Polars uses all cores, headrace's benchmark one. They take turns,
five rounds, and the medians are printed in microseconds an order. Polars runs in the batch sizes
that a worker would use, and once over the whole file.
"""

import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone

import polars as pl

ROUNDS = 5
BATCHES = (2_000, 5_000, None)  # None: all at once


def catalog():
    read = lambda name: pl.read_csv(f"testdata/{name}.csv", infer_schema=False)
    products = read("products").select("product_id", pl.col("name").alias("product_name"), "category")
    rates = read("currency_rates").with_columns(pl.col("per_usd").cast(pl.Decimal(18, 6)))
    zips = read("zip_codes").select("zip", "city", "state", "country", "shipping_zone")
    return products, rates, zips


def orders(n, products, rates, zips):
    """The lines of n orders of the shape that the example's generator makes."""
    pick = random.Random(1)
    product, currency, zip_code = products["product_id"].to_list(), rates["currency"].to_list(), zips["zip"].to_list()
    at = datetime(2026, 1, 1, tzinfo=timezone.utc)
    for i in range(n):
        order = {
            "order_id": f"ord-{pick.getrandbits(64):016x}", "customer_id": f"cust-{pick.randrange(100_000):06d}",
            "product_id": pick.choice(product), "quantity": pick.randrange(1, 10),
            "unit_price": f"{pick.randrange(100, 100_000) / 100:.2f}", "currency": pick.choice(currency), "zip": pick.choice(zip_code),
            "at": (at + timedelta(seconds=i % 86_400)).strftime("%Y-%m-%dT%H:%M:%SZ"), "raw": {"channel": "web", "campaign": "newsletter"},
        }
        yield json.dumps(order, separators=(",", ":")).encode()


SCHEMA = {
    "order_id": pl.String, "customer_id": pl.String, "product_id": pl.String, "quantity": pl.Int32, "unit_price": pl.String,
    "currency": pl.String, "zip": pl.String, "at": pl.String, "raw": pl.Struct({"channel": pl.String, "campaign": pl.String}),
}


def transform(lines, products, rates, zips):
    """What the example's Decode and Enrich do: types, three look-ups, the amount in dollars."""
    frame = pl.read_ndjson(io.BytesIO(b"\n".join(lines)), schema=SCHEMA)
    return (
        frame.with_columns(
            pl.col("unit_price").cast(pl.Decimal(12, 4)),
            pl.col("at").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC"),
            pl.col("raw").struct.json_encode(),
        )
        .join(products, on="product_id", how="inner")
        .join(rates, on="currency", how="inner")
        .join(zips, on="zip", how="inner")
        .with_columns((pl.col("unit_price").cast(pl.Float64) * pl.col("quantity") / pl.col("per_usd").cast(pl.Float64)).round(2).alias("total_usd"))
    )


def by_polars(lines, size, tables):
    begun = time.perf_counter()
    rows = 0
    size = size or len(lines)
    for lo in range(0, len(lines), size):
        rows += transform(lines[lo : lo + size], *tables).height
    took = time.perf_counter() - begun
    if rows != len(lines):
        sys.exit(f"Polars kept {rows} of {len(lines)} orders")
    return took * 1e6 / len(lines)


def by_headrace(path):
    env = os.environ | {"HEADRACE_ORDERS_FILE": path, "GOMAXPROCS": "1"}
    out = subprocess.run(
        ["go", "test", "-run", "^$", "-bench", "^BenchmarkTransform$", "-benchtime", "1x", "./examples/orders"],
        env=env, check=True, capture_output=True, text=True,
    ).stdout
    return float(re.search(r"([\d.]+) ns/order", out).group(1)) / 1000


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    tables = catalog()
    lines = list(orders(n, *tables))
    with tempfile.NamedTemporaryFile(suffix=".ndjson") as file:
        file.write(b"\n".join(lines) + b"\n")
        file.flush()
        took = {}
        for _ in range(ROUNDS):
            took.setdefault("headrace, one core", []).append(by_headrace(file.name))
            for size in BATCHES:
                took.setdefault(f"Polars {pl.__version__}, batches of {size or n:,}", []).append(by_polars(lines, size, tables))
    print(f"{n:,} orders, {os.cpu_count()} cores, medians of {ROUNDS} rounds")
    for name, rounds in took.items():
        print(f"{statistics.median(rounds):6.2f} µs an order ({min(rounds):.2f}-{max(rounds):.2f})  {name}")


main()

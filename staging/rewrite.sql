-- name: rewrite_table
CREATE TABLE IF NOT EXISTS {rewrites} (
    name    text        PRIMARY KEY,
    last    text,
    read    bigint      NOT NULL DEFAULT 0,
    written bigint      NOT NULL DEFAULT 0,
    done    boolean     NOT NULL DEFAULT false,
    at      timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);

-- name: rewrite_read
SELECT last, read, written, done FROM {rewrites} WHERE name = @name::text;

-- name: rewrite_forget
DELETE FROM {rewrites} WHERE name = @name::text;

-- name: rewrite_claim
-- Takes the step from one key to the next. Another run of the same name that has taken it already
-- leaves no row to return: this statement waits for it.
INSERT INTO {rewrites} AS w (name, last, read) VALUES (@name::text, @last::text, @read::int8)
ON CONFLICT (name) DO UPDATE SET last = EXCLUDED.last, read = w.read + EXCLUDED.read, at = CURRENT_TIMESTAMP
WHERE w.last IS NOT DISTINCT FROM nullif(@previous::text, '') AND NOT w.done
RETURNING true AS taken;

-- name: rewrite_wrote
UPDATE {rewrites} SET written = written + @written::int8 WHERE name = @name::text;

-- name: rewrite_done
INSERT INTO {rewrites} AS w (name, last, done) VALUES (@name::text, nullif(@last::text, ''), true)
ON CONFLICT (name) DO UPDATE SET done = true, at = CURRENT_TIMESTAMP
WHERE w.last IS NOT DISTINCT FROM nullif(@last::text, '')
RETURNING true AS taken;

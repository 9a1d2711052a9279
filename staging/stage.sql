-- name: read_control
SELECT open FROM {control};

-- name: stage_look
-- Looks for the batch in the ledger.
SELECT c.open, l.kind, l.tables,
       @sealed::timestamptz < c.floor AS too_old,
       (SELECT md5(string_agg(concat_ws(' ', attname, atttypid, atttypmod, attcollation), ',' ORDER BY attnum))
        FROM pg_attribute WHERE attrelid = {staging_text}::regclass AND attnum > 0 AND NOT attisdropped) AS digest
FROM {control} c LEFT JOIN {ledger} l ON l.id = @id::text::uuid;

-- name: stage_fields
-- The columns of the staging table as they are now, whatever the transaction's snapshot is: the
-- description of the result has them. It needs no privilege on the table.
SELECT (NULL::{staging}).*;

-- name: stage_lock
-- In the order in which a promotion takes them. While this lock is held, no other transaction can
-- change the columns of the staging table.
LOCK TABLE {registry}, {staging} IN ROW EXCLUSIVE MODE

-- name: stage_register
-- Returns the batch's number, or no row if the batch is in the registry or in the ledger.
INSERT INTO {registry}
       (id, root, root_offset, records, kept, duplicates, filtered, rejected, rows, attempt, worker, sealed_at, tables, stages)
SELECT @id::text::uuid, @root::text::uuid, @offset::int4, @records::int4, @kept::int4, @duplicates::int4, @filtered::int4,
       @rejected::int4, @rows::int4, @attempt::int8, @worker::text, @sealed::timestamptz, @tables::text, @stages::text
WHERE NOT EXISTS (SELECT FROM {ledger} WHERE id = @id::text::uuid)
ON CONFLICT DO NOTHING
RETURNING no;

-- name: stage_recount
-- Corrects the counts of a batch of which COPY refused records.
UPDATE {registry}
SET kept = @kept::int4, rows = @rows::int4, rejected = rejected + @refused::int4
WHERE no = @no::int4;

-- name: copy_rows
COPY {staging} ({columns}, {record}) FROM STDIN BINARY;

-- name: copy_rejects
COPY {refused} (hr_batch, pos, key, code, reason, payload, bytes) FROM STDIN BINARY;

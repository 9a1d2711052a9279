-- name: judge
-- Tries the records of a condition one by one, in the order of arrival, as row-by-row INSERT does.
-- Each is accepted or refused by Postgres itself. What is refused moves from the side into the
-- rejects table, with Postgres' own SQLSTATE, constraint and message. The tries share a
-- subtransaction as long as none is refused: a refusal names the record, the records before it in
-- the subtransaction are written again, and the next subtransaction is shorter.
--
-- alone:    each record is tried against the target as it is, and taken back.
-- undo:     what was written is taken back at the end. Only the refusals stay.
-- postpone: a record that lacks its parent is marked as postponed and not rejected. The parent
--      may come.
--
-- soft:     a SQLSTATE that may be due to the surroundings (a missing privilege in a trigger)
--      rejects the record.
--
-- Another SQLSTATE that may be due to the surroundings stops the run. The program then tries this
-- record itself: the error that a program receives shows more.
DO $headrace$
#variable_conflict use_column
DECLARE
    hr_rows     refcursor;
    hr_row      record;           -- the row under way
    hr_more     boolean;          -- there is one
    hr_at       bigint := 1;      -- its number
    hr_first    bigint;           -- number of the row with which the subtransaction began
    hr_size     bigint := CASE WHEN {alone} THEN 1 ELSE 64 END; -- rows of a subtransaction
    hr_record_  bigint;           -- record under way
    hr_skip     bigint;           -- record that the subtransaction before refused
    hr_skipped  tid[];            -- its rows
    hr_twice    bigint;           -- record that met a unique index, and is tried once more
    hr_stop     bigint;           -- record for the program to judge
    hr_passed   boolean;          -- the subtransaction is to be taken back, although nothing was refused
    hr_undone   boolean;
    hr_n        bigint;
    hr_tried    bigint;
    hr_written  bigint := 0;
    hr_refused  bigint := 0;
    hr_soft     bigint := 0;      -- refusals that may be due to the surroundings
    hr_later    tid[] := '{}';    -- rows that lack their parent
    hr_marked   bigint := 0;
    hr_bad      tid[] := '{}';
    hr_codes    text[] := '{}';
    hr_reasons  text[] := '{}';
    hr_state    text;
    hr_message  text;
    hr_detail   text;
    hr_name     text;
BEGIN
    OPEN hr_rows SCROLL FOR
        SELECT s.ctid AS hr_tid, s.* FROM {staging} s WHERE {which} ORDER BY s.{record};
    FETCH hr_rows INTO hr_row;
    hr_more := FOUND;
    LOOP
        hr_undone := false;
        BEGIN
            WHILE hr_more AND hr_stop IS NULL AND cardinality(hr_bad) + cardinality(hr_later) < 5000 LOOP
                hr_first := hr_at;
                hr_tried := 0;
                hr_skipped := '{}';
                hr_passed := false;
                BEGIN
                    LOOP
                        hr_record_ := hr_row.{record};
                        IF hr_record_ IS NOT DISTINCT FROM hr_skip THEN
                            hr_skipped := hr_skipped || hr_row.hr_tid;
                        ELSE
                            {try_row};
                            GET DIAGNOSTICS hr_n = ROW_COUNT;
                            hr_tried := hr_tried + hr_n;
                        END IF;
                        FETCH hr_rows INTO hr_row;
                        hr_more := FOUND;
                        hr_at := hr_at + 1;
                        EXIT WHEN NOT hr_more OR hr_at >= hr_first + hr_size AND hr_row.{record} <> hr_record_;
                    END LOOP;
                    IF {alone} THEN
                        hr_passed := true;
                        RAISE SQLSTATE 'HR000';
                    END IF;
                    hr_written := hr_written + hr_tried;
                    hr_size := least(hr_size * 2, 4096);
                EXCEPTION WHEN OTHERS OR assert_failure THEN
                    IF NOT hr_passed THEN
                        GET STACKED DIAGNOSTICS hr_state = RETURNED_SQLSTATE, hr_message = MESSAGE_TEXT,
                            hr_detail = PG_EXCEPTION_DETAIL, hr_name = CONSTRAINT_NAME;
                        hr_skip := hr_record_;
                        IF hr_state = '23505' AND hr_twice IS DISTINCT FROM hr_record_ THEN
                            hr_twice := hr_record_; -- another program may have inserted the key a moment ago
                            hr_skip := NULL;
                        END IF;
                        hr_size := greatest(hr_at - hr_first, 1);
                        FETCH ABSOLUTE hr_first FROM hr_rows INTO hr_row;
                        hr_more := true;
                        hr_at := hr_first;
                        CONTINUE; -- the same rows again, without this record
                    END IF;
                END;
                IF {alone} THEN
                    hr_size := 1;
                END IF;
                CONTINUE WHEN cardinality(hr_skipped) = 0;
                IF left(hr_state, 2) IN ('08', '25', '40', '53', '57', '58', 'F0')
                   OR hr_state IN ('55P03', '55006', 'XX001', 'XX002')
                   OR left(hr_state, 2) IN ('0A', '28', '2D', '3D', '3F', '42', '55', 'XX') AND NOT {soft} THEN
                    hr_stop := hr_skip;
                    CONTINUE;
                END IF;
                IF {postpone} AND hr_state = '23503' THEN
                    hr_later := hr_later || hr_skipped;
                    CONTINUE;
                END IF;
                IF left(hr_state, 2) IN ('0A', '28', '2D', '3D', '3F', '42', '55', 'XX') THEN
                    hr_soft := hr_soft + cardinality(hr_skipped);
                END IF;
                IF hr_name <> '' AND strpos(hr_message, hr_name) = 0 THEN
                    hr_message := format('constraint %I: %s', hr_name, hr_message);
                END IF;
                IF hr_detail <> '' THEN
                    hr_message := hr_message || ': ' || hr_detail;
                END IF;
                hr_bad := hr_bad || hr_skipped;
                hr_codes := hr_codes || array_fill('sqlstate_' || hr_state, ARRAY[cardinality(hr_skipped)]);
                hr_reasons := hr_reasons || array_fill(hr_message, ARRAY[cardinality(hr_skipped)]);
            END LOOP;
            IF {undo} THEN
                hr_undone := true;
                RAISE SQLSTATE 'HR000';
            END IF;
        EXCEPTION WHEN OTHERS THEN
            IF NOT hr_undone THEN
                RAISE;
            END IF;
        END;
        WITH bad AS (
            DELETE FROM {staging} s USING unnest(hr_bad, hr_codes, hr_reasons) b(hr_tid, hr_code, hr_reason)
            WHERE s.ctid = b.hr_tid
            RETURNING s.*, b.hr_code, b.hr_reason
        )
        INSERT INTO {rejects} (batch, root, place, pos, whole, source, key, code, reason, row)
        SELECT r.id, r.root, r.root_offset + {position}, {position}, true, {source}, {record_id}, s.hr_code, s.hr_reason, {row_json}
        FROM bad s JOIN {registry} r ON r.no = {batch_no};
        GET DIAGNOSTICS hr_n = ROW_COUNT;
        hr_refused := hr_refused + hr_n;
        UPDATE {staging} s SET {record} = s.{record} | {postponed} FROM unnest(hr_later) l(hr_tid) WHERE s.ctid = l.hr_tid;
        GET DIAGNOSTICS hr_n = ROW_COUNT;
        hr_marked := hr_marked + hr_n;
        hr_later := '{}';
        hr_bad := '{}';
        hr_codes := '{}';
        hr_reasons := '{}';
        EXIT WHEN NOT hr_more OR hr_stop IS NOT NULL;
    END LOOP;
    CLOSE hr_rows; -- an open cursor would keep the side from being truncated
    PERFORM set_config('headrace.judged', json_build_object('written', hr_written, 'refused', hr_refused, 'soft', hr_soft,
        'stop', coalesce(hr_stop, -1), 'postponed', hr_marked)::text, true);
END
$headrace$

-- name: judged
SELECT current_setting('headrace.judged') AS judged

-- name: try_insert_plain
INSERT INTO {target} AS old ({columns}) VALUES ({row_columns})

-- name: try_insert_absent
-- A row whose key is there is a conflict, whatever else the target would refuse it for.
INSERT INTO {target} AS old ({columns})
SELECT {row_columns} WHERE NOT EXISTS (SELECT FROM {target} hr_there WHERE {key_is_row})

-- name: try_insert_replace
INSERT INTO {target} AS old ({columns}) VALUES ({row_columns}) {on_conflict}

-- name: try_rules
PERFORM {rule_verdict} FROM {staging} s WHERE s.ctid = hr_row.hr_tid

-- name: reject_record
-- Rejects one record that the program has judged itself.
WITH bad AS (
    DELETE FROM {staging} s WHERE s.{record} = @record::int8 AND {which} RETURNING s.*
)
INSERT INTO {rejects} (batch, root, place, pos, whole, source, key, code, reason, row)
SELECT r.id, r.root, r.root_offset + {position}, {position}, true, @source::text, {record_id}, @code::text, @reason::text, {row_json}
FROM bad s JOIN {registry} r ON r.no = {batch_no}

-- name: postpone_record
UPDATE {staging} s SET {record} = s.{record} | {postponed} WHERE s.{record} = @record::int8 AND {which}

-- name: resume_postponed
UPDATE {staging} s SET {record} = s.{record} & ~{postponed} WHERE s.{record} < 0 RETURNING s.{record} AS record

-- name: spans
-- Where the rows of each batch stand.
SELECT {batch_no} AS no, count(*) AS n, min({position}) AS first, max({position}) AS last,
       ((min(s.ctid)::text::point)[0])::int8 AS first_page, ((max(s.ctid)::text::point)[0])::int8 AS last_page
FROM {staging} s WHERE {which}
GROUP BY 1
ORDER BY 1

-- name: remaining
SELECT {batch_no} AS no, count(*) AS n FROM {staging} s WHERE {which} GROUP BY 1

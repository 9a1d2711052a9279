-- name: judge
-- Tries the records of a condition one by one, in the order of arrival, as row-by-row INSERT does.
-- Each is accepted or refused by Postgres itself. What is refused moves from the side into the
-- rejects table, with Postgres' own SQLSTATE, constraint and message. The tries share a
-- subtransaction as long as none is refused: a refusal names the record, and the records before it
-- in the subtransaction are written again. A subtransaction takes the square root of the rows
-- between two refusals: shorter ones cost more to begin, longer ones more to write again.
--
-- alone:    each record is tried against the target as it is, and rolled back.
-- undo:     what was written is rolled back at the end. Only the refusals stay.
-- postpone: a record that lacks its parent is marked as postponed and not rejected. The parent
--      may come.
--
-- leave:    it is left as it is instead.
--
-- suppress: triggers of the target may drop a row without an error. Such a row is rejected too.
--
-- soft:     a SQLSTATE that may be due to the surroundings (a missing privilege in a trigger)
--      rejects the record.
--
-- defers:   a trigger may have deferred constraints. They are checked after each row.
--
-- again:    the records lacked their parents before. One whose key another row has taken meanwhile
--      is refused for its parent, as it was then.
--
-- Another SQLSTATE that may be due to the surroundings stops the run. The program then tries this
-- record itself: the error that a program receives shows more.
DO $headrace$
#variable_conflict use_column
DECLARE
    hr__rows    refcursor;
    hr__row      record;           -- the row under way
    hr__more     boolean;          -- there is one
    hr__at       bigint := 1;      -- its number
    hr__first    bigint;           -- number of the row with which the subtransaction began
    hr__size     bigint := CASE WHEN {alone} THEN 1 ELSE 64 END; -- rows of a subtransaction
    hr__since    bigint := 0;      -- rows since the last refusal
    hr__record_  bigint;           -- record under way
    hr__skip     bigint;           -- record that the subtransaction before refused
    hr__skipped  tid[];            -- its rows
    hr__twice    bigint;           -- record that met a unique index, and is tried once more
    hr__stop     bigint;           -- record for the program to judge
    hr__passed   boolean;          -- the subtransaction must be rolled back, although nothing was refused
    hr__undone   boolean;
    hr__n        bigint;
    hr__tried    bigint;
    hr__written  bigint := 0;
    hr__refused  bigint := 0;
    hr__soft     bigint := 0;      -- refusals that may be due to the surroundings
    hr__later    tid[] := '{}';    -- rows that lack their parent
    hr__marked   bigint := 0;
    hr__there    text;             -- where the target had the key before the row was tried
    hr__clash    bigint;           -- first record whose key was there
    hr__clashing bigint;           -- the same in the subtransaction
    hr__dropped  tid[];            -- rows of the subtransaction that a trigger has dropped
    hr__drops    bigint[];         -- their records
    hr__kept     bigint[];         -- records of the subtransaction with a row that was not dropped
    hr__bad      tid[] := '{}';
    hr__wholes   boolean[] := '{}'; -- every row of the record is bad
    hr__codes    text[] := '{}';
    hr__reasons  text[] := '{}';
    hr__length   bigint := 0;      -- of the reasons: a trigger's messages may be long
    hr__state    text;
    hr__perhaps  boolean;          -- the surroundings may be at fault
    hr__message  text;
    hr__detail   text;
    hr__name     text;
BEGIN
    OPEN hr__rows SCROLL FOR
        SELECT s.ctid AS hr__tid, s.* FROM {staging} s WHERE {which} ORDER BY s.{record};
    FETCH hr__rows INTO hr__row;
    hr__more := FOUND;
    LOOP
        hr__undone := false;
        BEGIN
            WHILE hr__more AND hr__stop IS NULL AND cardinality(hr__bad) + cardinality(hr__later) < 5000 AND hr__length < 500000 LOOP
                hr__first := hr__at;
                hr__tried := 0;
                hr__skipped := '{}';
                hr__dropped := '{}';
                hr__drops := '{}';
                hr__kept := '{}';
                hr__clashing := NULL;
                hr__passed := false;
                BEGIN
                    LOOP
                        hr__record_ := hr__row.{record};
                        IF hr__record_ IS NOT DISTINCT FROM hr__skip THEN
                            hr__skipped := hr__skipped || hr__row.hr__tid;
                        ELSE
                            IF {suppress} THEN
                                hr__there := {row_place};
                            END IF;
                            {try_row};
                            GET DIAGNOSTICS hr__n = ROW_COUNT;
                            IF {defers} THEN
                                SET CONSTRAINTS ALL IMMEDIATE;
                            END IF;
                            IF {suppress} THEN
                                IF hr__n = 0 AND {row_place} <> coalesce(hr__there, '') THEN
                                    hr__n := 1; -- a trigger has written the row
                                END IF;
                                IF hr__n = 0 AND hr__there IS NOT NULL AND {row_kept} THEN
                                    hr__clashing := coalesce(hr__clashing, hr__record_);
                                    hr__n := -1;
                                ELSIF hr__n = 0 AND {probes} THEN
                                    -- Its key may have changed, or be hidden. Without ON CONFLICT
                                    -- meeting the index is an error, and being dropped is none.
                                    BEGIN
                                        {probe_row};
                                        GET DIAGNOSTICS hr__n = ROW_COUNT;
                                    EXCEPTION WHEN unique_violation OR exclusion_violation THEN
                                        hr__clashing := coalesce(hr__clashing, hr__record_);
                                        hr__n := -1;
                                    END;
                                END IF;
                                IF hr__n = 0 THEN
                                    hr__dropped := hr__dropped || hr__row.hr__tid;
                                    hr__drops := hr__drops || hr__record_;
                                ELSIF hr__kept[cardinality(hr__kept)] IS DISTINCT FROM hr__record_ THEN
                                    hr__kept := hr__kept || hr__record_;
                                END IF;
                            END IF;
                            IF {again} AND {late_conflicts} AND (hr__n < 0 OR hr__n = 0 AND NOT {suppress}) THEN
                                RAISE foreign_key_violation USING MESSAGE = {late_reason};
                            END IF;
                            hr__tried := hr__tried + greatest(hr__n, 0);
                        END IF;
                        FETCH hr__rows INTO hr__row;
                        hr__more := FOUND;
                        hr__at := hr__at + 1;
                        -- A refused record ends it too: after a stop the program goes on behind it.
                        EXIT WHEN NOT hr__more
                            OR (hr__at >= hr__first + hr__size OR cardinality(hr__skipped) > 0) AND hr__row.{record} <> hr__record_;
                    END LOOP;
                    IF {alone} THEN
                        hr__passed := true;
                        RAISE SQLSTATE 'HR000';
                    END IF;
                    hr__written := hr__written + hr__tried;
                    hr__clash := coalesce(hr__clash, hr__clashing);
                    hr__since := CASE WHEN cardinality(hr__skipped) > 0 THEN 0 ELSE hr__since + hr__at - hr__first END;
                    hr__size := greatest(hr__size, least(sqrt(hr__since), 4096)::bigint);
                EXCEPTION WHEN OTHERS OR assert_failure THEN
                    IF NOT hr__passed THEN
                        GET STACKED DIAGNOSTICS hr__state = RETURNED_SQLSTATE, hr__message = MESSAGE_TEXT,
                            hr__detail = PG_EXCEPTION_DETAIL, hr__name = CONSTRAINT_NAME;
                        hr__skip := hr__record_;
                        IF hr__state = '23505' AND hr__twice IS DISTINCT FROM hr__record_ THEN
                            hr__twice := hr__record_; -- another program may have inserted the key a moment ago
                            hr__skip := NULL;
                        END IF;
                        hr__size := greatest(least(sqrt(hr__since + hr__at - hr__first), 4096)::bigint, 1);
                        FETCH ABSOLUTE hr__first FROM hr__rows INTO hr__row;
                        hr__more := true;
                        hr__at := hr__first;
                        CONTINUE; -- the same rows again, without this record
                    END IF;
                END;
                IF {alone} THEN
                    hr__size := 1;
                END IF;
                IF cardinality(hr__dropped) > 0 THEN
                    hr__bad := hr__bad || hr__dropped;
                    hr__wholes := hr__wholes || ARRAY(SELECT d.record <> ALL(hr__kept) FROM unnest(hr__drops) WITH ORDINALITY d(record, n) ORDER BY d.n);
                    hr__codes := hr__codes || array_fill({suppressed_code}::text, ARRAY[cardinality(hr__dropped)]);
                    hr__reasons := hr__reasons || array_fill({suppressed_reason}::text, ARRAY[cardinality(hr__dropped)]);
                END IF;
                CONTINUE WHEN cardinality(hr__skipped) = 0;
                hr__perhaps := left(hr__state, 2) = ANY({perhaps_classes}) OR hr__state = ANY({perhaps_codes});
                IF left(hr__state, 2) = ANY({surroundings_classes}) OR hr__state = ANY({surroundings_codes}) OR hr__perhaps AND NOT {soft} THEN
                    hr__stop := hr__skip;
                    CONTINUE;
                END IF;
                CONTINUE WHEN {leave} AND hr__state = '23503';
                IF {postpone} AND hr__state = '23503' THEN
                    hr__later := hr__later || hr__skipped;
                    CONTINUE;
                END IF;
                IF hr__perhaps THEN
                    hr__soft := hr__soft + cardinality(hr__skipped);
                END IF;
                IF hr__name <> '' AND strpos(hr__message, hr__name) = 0 THEN
                    hr__message := format('constraint %I: %s', hr__name, hr__message);
                END IF;
                IF hr__detail <> '' THEN
                    hr__message := hr__message || ': ' || hr__detail;
                END IF;
                hr__message := left(hr__message, {max_reason});
                hr__length := hr__length + length(hr__message) * cardinality(hr__skipped);
                hr__bad := hr__bad || hr__skipped;
                hr__wholes := hr__wholes || array_fill(true, ARRAY[cardinality(hr__skipped)]);
                hr__codes := hr__codes || array_fill('sqlstate_' || hr__state, ARRAY[cardinality(hr__skipped)]);
                hr__reasons := hr__reasons || array_fill(hr__message, ARRAY[cardinality(hr__skipped)]);
            END LOOP;
            IF {undo} THEN
                hr__undone := true;
                RAISE SQLSTATE 'HR000';
            END IF;
        EXCEPTION WHEN OTHERS THEN
            IF NOT hr__undone THEN
                RAISE;
            END IF;
        END;
        WITH bad AS (
            DELETE FROM {staging} s USING unnest(hr__bad, hr__wholes, hr__codes, hr__reasons) b(hr__tid, hr__whole, hr__code, hr__reason)
            WHERE s.ctid = b.hr__tid
            RETURNING s.*, b.hr__whole, b.hr__code, b.hr__reason
        ), moved AS (
        INSERT INTO {rejects} (batch, root, place, pos, whole, source, key, code, reason, row, tables)
        SELECT r.id, r.root, r.root_offset + {position}, {position}, s.hr__whole, {source}, {record_id}, s.hr__code, s.hr__reason, {row_json}, r.tables
        FROM bad s JOIN {registry} r ON r.no = {batch_no}
        )
        SELECT count(*) INTO hr__n FROM bad;
        hr__refused := hr__refused + hr__n;
        UPDATE {staging} s SET {record} = s.{record} | {postponed} FROM unnest(hr__later) l(hr__tid) WHERE s.ctid = l.hr__tid;
        GET DIAGNOSTICS hr__n = ROW_COUNT;
        hr__marked := hr__marked + hr__n;
        hr__later := '{}';
        hr__bad := '{}';
        hr__wholes := '{}';
        hr__codes := '{}';
        hr__reasons := '{}';
        hr__length := 0;
        EXIT WHEN NOT hr__more OR hr__stop IS NOT NULL;
    END LOOP;
    CLOSE hr__rows; -- an open cursor would keep the side from being truncated
    PERFORM set_config('headrace.judged', json_build_object('written', hr__written, 'refused', hr__refused, 'soft', hr__soft,
        'stop', coalesce(hr__stop, -1), 'postponed', hr__marked, 'clash', coalesce(hr__clash, -1))::text, true);
END
$headrace$

-- name: judged
SELECT current_setting('headrace.judged') AS judged

-- name: try_insert_plain
INSERT INTO {target} AS old ({columns}) VALUES ({row_columns})

-- name: try_insert_absent
-- Child tables have indexes of their own.
INSERT INTO {target} AS old ({columns})
SELECT {row_columns} WHERE NOT ({children} AND EXISTS (SELECT FROM {target} hr_there WHERE {key_is_row}))
ON CONFLICT ({key}) DO NOTHING

-- name: try_insert_replace
INSERT INTO {target} AS old ({columns}) VALUES ({row_columns}) {on_conflict}

-- name: try_rules
PERFORM {rule_verdict} FROM {staging} s WHERE s.ctid = hr__row.hr__tid

-- name: row_place
-- Where the target's row of the key is. A write moves it.
(SELECT hr_there.tableoid::text || hr_there.ctid::text FROM {target} hr_there WHERE {key_is_row} LIMIT 1)

-- name: target_place
(SELECT hr_there.tableoid::text || hr_there.ctid::text FROM {target} hr_there WHERE {key_in_target} LIMIT 1)

-- name: place_of_row
-- The same for a staged row, and whether the conflict policy may have left the row as it is there.
SELECT coalesce({target_place}, '') AS place, {kept_there} AS kept FROM {staging} s WHERE {which}

-- name: row_same
EXISTS (SELECT FROM {target} hr_there WHERE {key_is_row} AND {same_as_row})

-- name: reject_record
-- Rejects rows of one record that the program has judged itself: all of them, or one.
WITH bad AS (
    DELETE FROM {staging} s WHERE s.{record} = @record::int8 AND {which} RETURNING s.*
), moved AS (
    INSERT INTO {rejects} (batch, root, place, pos, whole, source, key, code, reason, row, tables)
    SELECT r.id, r.root, r.root_offset + {position}, {position}, @whole::bool, @source::text, {record_id}, @code::text, @reason::text, {row_json}, r.tables
    FROM bad s JOIN {registry} r ON r.no = {batch_no}
)
SELECT count(*) AS n FROM bad

-- name: postpone_record
UPDATE {staging} s SET {record} = s.{record} | {postponed} WHERE s.{record} = @record::int8 AND {which}

-- name: resume_postponed
UPDATE {staging} s SET {record} = s.{record} & ~{postponed} WHERE s.{record} < 0 RETURNING s.{record} AS record

-- name: spans
-- Where the rows of each batch are.
SELECT {batch_no} AS no, count(*) AS n, min({position}) AS first, max({position}) AS last,
       ((min(s.ctid)::text::point)[0])::int8 AS first_page, ((max(s.ctid)::text::point)[0])::int8 AS last_page
FROM {staging} s WHERE {which}
GROUP BY 1
ORDER BY 1

-- name: remaining
SELECT {batch_no} AS no, count(*) AS n FROM {staging} s WHERE {which} GROUP BY 1

-- name: remainder
SELECT count(*) AS n FROM {staging} s WHERE {which}

-- name: any_absent
SELECT EXISTS (SELECT FROM {staging} s WHERE {which} AND {absent}) AS absent

-- name: array_absent
SELECT count(*) AS n FROM {array} s WHERE {absent}

-- name: rows_of
SELECT s.{record} AS record, s.ctid::text AS place FROM {staging} s WHERE {which} ORDER BY s.{record}

-- name: share_side
LOCK TABLE {staging} IN ACCESS SHARE MODE NOWAIT

-- name: some_records
-- Some records of a side, to be tried.
SELECT DISTINCT s.{record} AS record FROM (SELECT s.{record} FROM {staging} s WHERE {which} LIMIT 64) s

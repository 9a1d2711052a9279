-- name: apply_rules
-- Moves the rows that a rule rejects from the side into the rejects table, and counts them by
-- batch. They are deleted, so that the verdict is given once, even if a rule reads tables that
-- change meanwhile. A record of several rows is rejected as a whole only if none of its rows is
-- left.
WITH judged AS MATERIALIZED (
    SELECT s.ctid AS hr__tid, j.hr__verdict
    FROM {staging} s CROSS JOIN LATERAL (SELECT {rule_verdict} AS hr__verdict OFFSET 0) j
    WHERE j.hr__verdict IS NOT NULL AND {which}
), bad AS (
    DELETE FROM {staging} s USING judged j WHERE s.ctid = j.hr__tid RETURNING s.*, j.hr__verdict
), badly AS (
    SELECT {batch_no} AS no, {position} AS pos, count(*) AS n FROM bad s GROUP BY 1, 2
), every AS ( -- the statement's snapshot still has the deleted rows
    SELECT {batch_no} AS no, {position} AS pos, count(*) AS n
    FROM {staging} s
    WHERE @several::bool AND ({batch_no}, {position}) IN (SELECT no, pos FROM badly)
    GROUP BY 1, 2
), whole AS (
    SELECT w.no, w.pos, NOT @several::bool OR w.n = e.n AS whole
    FROM badly w LEFT JOIN every e ON e.no = w.no AND e.pos = w.pos
), moved AS (
    INSERT INTO {rejects} (batch, root, place, pos, whole, source, key, code, reason, row, tables)
    SELECT r.id, r.root, r.root_offset + {position}, {position}, w.whole, 'rule', {record_id}, {rule_code}, {rule_reason}, {row_json}, r.tables
    FROM bad s
    JOIN {registry} r ON r.no = {batch_no}
    JOIN whole w ON w.no = {batch_no} AND w.pos = {position}
)
SELECT {batch_no} AS no, count(*) AS n FROM bad s GROUP BY 1;

UPDATE {state} SET as_of = $2, started = $3::text::xid8 WHERE name = $1

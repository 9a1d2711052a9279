-- Reads of each batch what its hash, its list and the sorted sets hold, in one step.
-- ARGV: prefix, then ids.
-- Returns for each: records by its hash (-1: no hash, -2: not a hash), state, records of its list
-- (-1: not a list), and a letter for each set that has it: L, R, H, B, O.
local SETS = {{LEASES, 'L'}, {REDO, 'R'}, {HANDED, 'H'}, {BROKEN, 'B'}, {OPEN, 'O'}}
local out = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  local meta = redis.pcall('HMGET', metaOf(id), 'n', 'st')
  local records, state = -2, ''
  if not meta.err then records, state = tonumber(meta[1] or -1) or -1, meta[2] or '' end
  local sets = ''
  for _, set in ipairs(SETS) do
    if redis.call('ZSCORE', set[1], id) then sets = sets .. set[2] end
  end
  out[i - 1] = {records, state, pcallNumber('LLEN', listOf(id)) or -1, sets}
end
return out

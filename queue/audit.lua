-- Reads of each batch what its hash, its list and the sorted sets hold, in one step.
-- ARGV: prefix, then ids.
-- Returns the sum of the reservations of bounded pushes and the counter of it, and then for each
-- id: records by its hash (-1: no hash, -2: not a hash), state, records of its list (-1: not a
-- list), a letter for each set that has it (L, R, H, B, O), its id, first field or score that the
-- queue does not write, with its text, and in how many ms its list and its hash expire (-1: never).
local NUMBERS = {'n', 'att', 'off', 'sealed', 'first', 'fails', 'crashes', 'past', 'buried'}
local SETS = {{LEASES, 'L'}, {REDO, 'R'}, {HANDED, 'H'}, {BROKEN, 'B'}, {OPEN, 'O'}}
-- A clock that was set back is followed by the next script that writes.
local now, seen = serverTime(), number(redis.call('HGET', STAT, 'clock')) or 0
if seen > now and isTime(seen, now) then now = seen end
local out = {sumReserved(), number(redis.call('HGET', STAT, 'reserved')) or 0}
for i = 2, #ARGV do
  local id = ARGV[i]
  local meta = read('HMGET', metaOf(id), 'st', 'root', unpack(NUMBERS))
  local records, state, odd = -2, '', isID(id) and '' or 'id = ' .. string.sub(id, 1, 64)
  if meta then
    local fields = {root = meta[2]}
    for k, field in ipairs(NUMBERS) do fields[field] = meta[2 + k] end
    local gone = not (meta[1] or meta[2] or fields.n)
    local faulty = not gone and faultyField(fields, now)
    if faulty and odd == '' then odd = faulty .. ' = ' .. string.sub(fields[faulty] or '', 1, 64) end
    records, state = gone and -1 or number(fields.n) or 0, meta[1] or ''
  end
  local sets = ''
  for _, set in ipairs(SETS) do
    local score = redis.call('ZSCORE', set[1], id)
    if score then sets = sets .. set[2] end
    if score and odd == '' and not isScore(set[1], score, now) then odd = 'its score in the set ' .. set[2] .. ' = ' .. score end
  end
  out[i + 1] = {records, state, read('LLEN', listOf(id)) or -1, sets, odd, redis.call('PTTL', listOf(id)), redis.call('PTTL', metaOf(id))}
end
return out

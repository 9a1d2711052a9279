-- Mends one thing that Audit found, or gives it up. Each operation reads the keys anew, because
-- they may have changed since.
-- ARGV: prefix, operation, id, and then what the operation takes. Returns a list of numbers, which
-- is the number of records or entries that it changed unless the comment of the operation states
-- another one, and the names of the keys that were set aside.
local operation, id = ARGV[2], ARGV[3]
local aside = {}

-- typeOf returns the type of a key.
local function typeOf(key) return redis.call('TYPE', key).ok end

-- meta returns the meta hash of the batch, empty if it is gone or of another type.
local function meta()
  if typeOf(metaOf(id)) ~= 'hash' then return {} end
  return fieldsOf(redis.call('HGETALL', metaOf(id)))
end

-- moveAside renames a key of another type than want, for the operator to inspect. It keeps what was
-- set aside before.
local function moveAside(key, want)
  local t = typeOf(key)
  if t == want or t == 'none' then return 0 end
  local name = PREFIX .. 'aside:' .. string.sub(key, #PREFIX + 1)
  while redis.call('EXISTS', name) == 1 do name = name .. '+' end
  redis.call('RENAME', key, name)
  aside[#aside + 1] = name
  return 1
end

-- remove removes every trace of the batch, and sets keys of another type aside.
local function remove(state, records)
  moveAside(listOf(id), 'list')
  moveAside(metaOf(id), 'hash')
  for _, set in ipairs({LEASES, REDO, HANDED, BROKEN, OPEN}) do redis.call('ZREM', set, id) end
  redis.call('UNLINK', listOf(id), metaOf(id))
  if state == 'H' then count('handed', -records) end
end

-- length returns how many records the list of the batch has.
local function length() return typeOf(listOf(id)) == 'list' and redis.call('LLEN', listOf(id)) or 0 end

-- resume puts a whole batch back into the sets of its state. A broken one is delivered again. Its
-- counters that hold no number start at 0, and its keys no longer expire.
local function resume(now)
  local fields = meta()
  for _, field in ipairs(COUNTER_FIELDS) do
    if fields[field] and not natural(fields[field]) then redis.call('HDEL', metaOf(id), field) end
  end
  local m = readMeta(id, now)
  if not m then return 0 end
  redis.call('PERSIST', listOf(id))
  redis.call('PERSIST', metaOf(id))
  local state = m.st == 'H' and 'H' or 'R'
  for _, set in ipairs({LEASES, REDO, HANDED, BROKEN}) do redis.call('ZREM', set, id) end
  redis.call('ZADD', SET_OF[state], int(now), id)
  local since = redis.call('ZSCORE', OPEN, id)
  if not since or not isScore(OPEN, since, now) then redis.call('ZADD', OPEN, m.first, id) end
  redis.call('HSET', metaOf(id), 'st', state)
  return number(m.n)
end

-- acknowledge ends a batch that is promoted, whatever is left of it. ARGV[4] and after are the
-- undos that go with it, four arguments each. Where nothing of the batch is left, another process
-- has acknowledged it, and its undo was applied then.
local function acknowledge()
  local m = meta()
  if isLeft(id) then applyUndo(matchUndo(4, #ARGV)) end
  local records = sizeOf(m.n) or length()
  remove(m.st, records)
  count('acked', records)
  count('inflight', -records)
  return records
end

local MAX_BYTES = 4194304 -- of payloads that pass through Lua in one call

-- bury moves what is left of a batch to the dead-letter list, the oldest record first, up to the
-- number of ids in ARGV[5] and after, or MAX_BYTES. ARGV[4] is the reason. A record whose place is
-- not known gets one of its own. When nothing is left it writes the missing records off and removes
-- the batch. It returns {records buried, records written off, 1 when it is done}.
local function bury(now)
  local m = meta()
  local left = length()
  local buried, bytes = 0, 0
  local function field(name) return math.max(number(m[name]) or 0, 0) end
  local at, first = field('buried'), isTime(m.first, now) and natural(m.first) or now
  local root = isID(m.root) and m.root or isID(id) and id
  while buried < left and ARGV[5 + buried] and bytes < MAX_BYTES do
    local payload, dead = redis.call('RPOP', listOf(id)), ARGV[5 + buried]
    local place = root and placeOf(int(field('off') + at + buried))
    buried, bytes = buried + 1, bytes + #payload
    redis.call('HSET', deadKeyOf(dead), 'p', payload, 'root', place and root or dead,
      'off', int(place or 0), 'reason', ARGV[4], 'att', int(field('past') + field('att')),
      'fails', int(field('fails')), 'crashes', int(field('crashes')), 'first', int(first), 'died', int(now))
    redis.call('ZADD', DEAD, int(now), dead)
  end
  count('dead', buried)
  count('inflight', -buried)
  if buried < left then
    if m.n then redis.call('HSET', metaOf(id), 'buried', int(at + buried)) end
    return {buried, 0, 0}
  end
  local lost = math.max((sizeOf(m.n) or 0) - at - buried, 0)
  count('lost', lost)
  count('inflight', -lost)
  remove(m.st == 'H' and 'H', sizeOf(m.n) or 0)
  return {buried, lost, 1}
end

-- forgetDead removes a dead letter without payload from the dead-letter list.
local function forgetDead()
  moveAside(deadKeyOf(id), 'hash')
  if redis.call('HEXISTS', deadKeyOf(id), 'p') == 1 then return 0 end
  redis.call('UNLINK', deadKeyOf(id))
  return redis.call('ZREM', DEAD, id)
end

-- forgetDelayed removes a delayed push without a list from the set.
local function forgetDelayed()
  moveAside(delayedListOf(id), 'list')
  if redis.call('LLEN', delayedListOf(id)) > 0 then return 0 end
  return redis.call('ZREM', DELAYED, id)
end

-- listDead puts a dead letter back into the dead-letter list.
local function listDead(now)
  if redis.call('HEXISTS', deadKeyOf(id), 'p') == 0 or redis.call('ZSCORE', DEAD, id) then return 0 end
  return redis.call('ZADD', DEAD, int(now), id)
end

-- listDelayed makes a delayed push due at once if it is not in the set, or due at no time. A list
-- that is not in the set and expires within ARGV[4] milliseconds is still being pushed.
local function listDelayed(now)
  local list, due = delayedListOf(id), redis.call('ZSCORE', DELAYED, id)
  local expires = redis.call('PTTL', list)
  if redis.call('LLEN', list) == 0 or not due and expires >= 0 and expires <= tonumber(ARGV[4]) then return 0 end
  if due and (tonumber(due) or math.huge) <= MAX_NUMBER then return 0 end
  redis.call('PERSIST', list)
  return redis.call('ZADD', DELAYED, int(now), id)
end

-- mendDead replaces the fields of a dead letter, and its time in the set, where they hold what the
-- queue does not write. Without its old place it gets one of its own, with the root in ARGV[4].
local function mendDead(now)
  local dead = redis.call('HMGET', deadKeyOf(id), 'root', 'off', 'att', 'fails', 'crashes', 'first', 'died')
  if not isID(dead[1]) or not placeOf(dead[2]) then redis.call('HSET', deadKeyOf(id), 'root', ARGV[4], 'off', 0) end
  for i, field in ipairs({'att', 'fails', 'crashes'}) do
    if not natural(dead[2 + i]) then redis.call('HSET', deadKeyOf(id), field, 0) end
  end
  for i, field in ipairs({'first', 'died'}) do
    local text = dead[5 + i]
    if not natural(text) or not isTime(text, now) then redis.call('HSET', deadKeyOf(id), field, int(now)) end
  end
  local score = redis.call('ZSCORE', DEAD, id)
  if score and not isTime(score, now) then redis.call('ZADD', DEAD, int(now), id) end
  return 1
end

-- balance solves taken = acked + inflight + dead + dropped + lost for the counter that held no
-- number. Of several, one takes what is left, and the others are 0. Otherwise lost, or taken, makes
-- up for the difference. Where the sum is no number to the scripts, what was settled before counts
-- no longer.
local function balance(n, unknown)
  local settled = n.acked + n.inflight + n.dead + n.dropped
  if settled + n.lost > MAX_NUMBER then
    n.acked, n.dropped, n.lost = 0, 0, 0
    n.taken = n.inflight + n.dead
    return
  end
  for _, field in ipairs({'acked', 'dropped', 'lost'}) do
    if unknown[field] and not unknown.taken and n.taken >= settled + n.lost then
      n[field] = n.taken - settled - n.lost
      return
    end
  end
  if n.taken >= settled then n.lost = n.taken - settled else n.taken = settled + n.lost end
end

-- recountReserved sets the sum of the reservations.
local function recountReserved()
  redis.call('HSET', STAT, 'reserved', int(sumReserved()))
  return 1
end

-- recount sets the counters to what was counted, if they have not changed since. ARGV[4] and after
-- are what the fields were, 0 for one that held no number, then the counted numbers. What cannot be
-- counted starts at 0.
local function recount()
  local FIELDS = {'taken', 'acked', 'inflight', 'handed', 'dead', 'delayed', 'dropped', 'lost'}
  local n, unknown = {}, {}
  for i, field in ipairs(FIELDS) do
    local text = redis.call('HGET', STAT, field) or '0'
    n[field], unknown[field] = number(text) or 0, not number(text)
    if n[field] ~= tonumber(ARGV[3 + i]) then return 0 end
  end
  local first = 3 + #FIELDS
  n.inflight, n.handed, n.dead, n.delayed = tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2]),
    tonumber(ARGV[first + 3]), tonumber(ARGV[first + 4])
  balance(n, unknown)
  for _, field in ipairs(FIELDS) do redis.call('HSET', STAT, field, int(n[field])) end
  for _, field in ipairs({'redelivered', 'requeued', 'splits', 'clock_steps'}) do
    local text = redis.call('HGET', STAT, field)
    if text and not number(text) then redis.call('HSET', STAT, field, 0) end
  end
  if not number(redis.call('HGET', STAT, 'avg')) then redis.call('HDEL', STAT, 'avg') end
  return recountReserved()
end

needs('HSET', 'HDEL', 'ZADD', 'ZREM', 'UNLINK', 'HINCRBY', 'RPOP', 'RENAME', 'PERSIST')
local now = begin()
local operations = {
  ['resume'] = resume, ['ack'] = acknowledge, ['bury'] = bury, ['forget dead'] = forgetDead,
  ['recount reserved'] = recountReserved, ['mend dead'] = mendDead, ['list dead'] = listDead,
  ['forget delayed'] = forgetDelayed, ['list delayed'] = listDelayed, ['recount'] = recount,
  ['aside'] = function() return moveAside(PREFIX .. id) end,
}
local done = operations[operation](now)
return {type(done) == 'table' and done or {done}, aside}

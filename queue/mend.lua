-- Mends one thing that Audit found, or gives it up. Each operation reads the keys anew, because
-- they may have changed since.
-- ARGV: prefix, operation, id, and then what the operation takes. Returns the number of records or
-- entries that it changed, unless the comment of the operation states another reply.
local operation, id = ARGV[2], ARGV[3]

-- typeOf returns the type of a key.
local function typeOf(key) return redis.call('TYPE', key).ok end

-- meta returns the meta hash of the batch, empty if it is gone or of another type.
local function meta()
  if typeOf(metaOf(id)) ~= 'hash' then return {} end
  return fieldsOf(redis.call('HGETALL', metaOf(id)))
end

-- remove removes every trace of the batch.
local function remove(state, records)
  for _, set in ipairs({LEASES, REDO, HANDED, BROKEN, OPEN}) do redis.call('ZREM', set, id) end
  redis.call('UNLINK', listOf(id), metaOf(id))
  if state == 'H' then count('handed', -records) end
end

-- resume puts a whole batch back into the sets of its state. A broken one is delivered again, and
-- one without a time of its own is as old as now.
local function resume(now)
  local m = readMeta(id)
  if not m then return 0 end
  local state = m.st == 'H' and 'H' or 'R'
  for _, set in ipairs({LEASES, REDO, HANDED, BROKEN}) do redis.call('ZREM', set, id) end
  redis.call('ZADD', SET_OF[state], int(now), id)
  redis.call('ZADD', OPEN, 'NX', m.first or int(now), id)
  redis.call('HSET', metaOf(id), 'st', state)
  return tonumber(m.n)
end

-- acknowledge ends a batch that is promoted, whatever is left of it. ARGV[4] and after are the
-- undos that go with it, four arguments each. Where nothing of the batch is left, another process
-- has acknowledged it, and its undo was applied then.
local function acknowledge()
  local m = meta()
  if isLeft(id) then applyUndo(matchUndo(4, #ARGV)) end
  local records = tonumber(m.n) or (typeOf(listOf(id)) == 'list' and redis.call('LLEN', listOf(id))) or 0
  remove(m.st, records)
  count('acked', records)
  count('inflight', -records)
  return records
end

-- bury moves what is left of a batch to the dead-letter list, the oldest record first, up to the
-- number of ids in ARGV[5] and after. ARGV[4] is the reason. When nothing is left it writes the
-- missing records off and removes the batch. It returns {records buried, records written off, 1
-- when it is done}.
local function bury(now)
  local m = meta()
  local left = typeOf(listOf(id)) == 'list' and redis.call('LLEN', listOf(id)) or 0
  local buried = math.min(left, #ARGV - 4)
  local at = tonumber(m.buried or 0)
  for i = 1, buried do
    local dead = ARGV[4 + i]
    redis.call('HSET', deadKeyOf(dead), 'p', redis.call('RPOP', listOf(id)), 'root', m.root or id,
      'off', (m.off or 0) + at + i - 1, 'reason', ARGV[4], 'att', (m.past or 0) + (m.att or 0), 'fails', m.fails or 0,
      'crashes', m.crashes or 0, 'first', m.first or int(now), 'died', int(now))
    redis.call('ZADD', DEAD, int(now), dead)
  end
  count('dead', buried)
  count('inflight', -buried)
  if buried < left then
    if m.n then redis.call('HSET', metaOf(id), 'buried', at + buried) end
    return {buried, 0, 0}
  end
  local lost = math.max((tonumber(m.n) or 0) - at - buried, 0)
  count('lost', lost)
  count('inflight', -lost)
  remove(m.st == 'H' and 'H', tonumber(m.n) or 0)
  return {buried, lost, 1}
end

-- moveAside renames a key of another type than want, for the operator to inspect.
local function moveAside(key, want)
  local t = typeOf(key)
  if t ~= want and t ~= 'none' then redis.call('RENAME', key, PREFIX .. 'aside:' .. id) end
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

-- recount sets the counters to what was counted, if they have not changed since. ARGV[4] and after
-- are pairs of the field and what it was, then the counted numbers.
local function recount()
  local FIELDS = {'taken', 'acked', 'inflight', 'handed', 'dead', 'delayed', 'dropped', 'lost'}
  local n = {}
  for i, field in ipairs(FIELDS) do
    n[field] = tonumber(redis.call('HGET', STAT, field) or 0)
    if n[field] ~= tonumber(ARGV[3 + i]) then return 0 end
  end
  local first = 3 + #FIELDS
  n.inflight, n.handed, n.dead, n.delayed = tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2]),
    tonumber(ARGV[first + 3]), tonumber(ARGV[first + 4])
  local settled = n.acked + n.inflight + n.dead + n.dropped
  if n.taken >= settled then n.lost = n.taken - settled else n.taken = settled + n.lost end
  for _, field in ipairs(FIELDS) do redis.call('HSET', STAT, field, int(n[field])) end
  return 1
end

local now = begin()
if operation == 'resume' then
  return resume(now)
elseif operation == 'ack' then
  return acknowledge()
elseif operation == 'bury' then
  return bury(now)
elseif operation == 'forget dead' then
  return forgetDead()
elseif operation == 'list dead' then
  return redis.call('ZADD', DEAD, int(now), id)
elseif operation == 'forget delayed' then
  return forgetDelayed()
elseif operation == 'list delayed' then
  return redis.call('ZADD', DELAYED, int(now), id)
end
return recount()

-- Splits a batch into contiguous parts, each a batch of its own, or buries the one record that it
-- holds. Does nothing if the batch is gone: another process has done it. A batch that is void in a
-- ledger cannot be promoted any more, so its holder does not matter; without a ledger only the
-- holder of the settling lease may do this.
-- ARGV: prefix, id, attempt ('' for a void batch), reason, fast, number of children, their
--      ids, then four arguments for each undo.
-- Returns 1 for a split, 2 for a burial, 0 for a batch that is gone, -1 for a lost lease and -2 for
-- a batch whose keys are inconsistent.
local id, attempt, reason, fast = ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
local children, FIRST_CHILD = tonumber(ARGV[6]), 7

-- bury moves the only record to the dead-letter list.
local function bury(now, meta, attempts, undo)
  local payload = redis.call('LINDEX', listOf(id), 0)
  applyUndo(undo)
  redis.call('HSET', deadKeyOf(id), 'p', payload, 'root', meta.root, 'off', meta.off, 'reason', reason,
    'att', int(attempts), 'fails', meta.fails or 0, 'crashes', meta.crashes or 0, 'first', meta.first, 'died', int(now))
  redis.call('ZADD', DEAD, int(now), id)
  count('dead', 1)
  count('inflight', -1)
end

-- moveRecords makes the list of a child of `size` records, of which the oldest is at position `at`.
local function moveRecords(child, n, at, size)
  if fast then
    redis.call('SORT', listOf(id), 'BY', 'nosort', 'LIMIT', n - at - size, size, 'STORE', listOf(child))
    return
  end
  for _ = 1, size do redis.call('LMOVE', listOf(id), listOf(child), 'RIGHT', 'LEFT') end
end

-- makeChild makes the batch of one part. It inherits place, age and annotations, and starts with no
-- failure: its parent's reason stays with the parent.
local function makeChild(child, meta, at, size, attempts, now, since)
  moveRecords(child, number(meta.n), at, size)
  redis.call('HSET', metaOf(child), 'n', size, 'att', 0, 'st', 'R', 'root', meta.root, 'off', int(meta.off + at),
    'sealed', meta.sealed, 'first', meta.first, 'past', int(attempts))
  for field, value in pairs(meta) do
    if string.sub(field, 1, 2) == 'r:' then
      redis.call('HSET', metaOf(child), field, string.sub(value, at + 1, at + size))
    end
  end
  redis.call('ZADD', REDO, int(now), child)
  redis.call('ZADD', OPEN, since, child)
end

local function split(now, meta, attempts)
  local n, at = number(meta.n), 0
  local since = redis.call('ZSCORE', OPEN, id) or int(now)
  for c = 1, children do
    local size = math.floor(n * c / children) - at
    makeChild(ARGV[FIRST_CHILD + c - 1], meta, at, size, attempts, now, since)
    at = at + size
  end
  count('splits', 1)
end

if redis.call('EXISTS', metaOf(id)) == 0 then return 0 end
needs('HGETALL', 'HINCRBY', 'HSET', 'UNLINK', 'ZADD', 'ZREM', 'ZSCORE', children == 0 and 'LINDEX' or fast and 'SORT' or 'LMOVE')
needsKeys('b:', 'm:', children == 0 and 'd:' or nil)
local meta = readMeta(id, serverTime())
if not meta or not SET_OF[meta.st] then
  setAside(id, begin())
  return -2
end
if attempt ~= '' and (meta.st ~= 'S' or meta.att ~= attempt) then return -1 end
local n = number(meta.n)
if (n == 1) ~= (children == 0) or children > n then
  return redis.error_reply('HEADRACE batch ' .. id .. ' has ' .. n .. ' records and ' .. children .. ' children')
end
local undo = n == 1 and matchUndo(FIRST_CHILD, #ARGV)
local now = begin()
local attempts = (number(meta.past) or 0) + number(meta.att)
if n == 1 then
  bury(now, meta, attempts, undo)
else
  split(now, meta, attempts)
end
redis.call('ZREM', SET_OF[meta.st], id)
redis.call('ZREM', OPEN, id)
redis.call('UNLINK', listOf(id), metaOf(id))
if meta.st == 'H' then count('handed', -n) end
return n == 1 and 2 or 1

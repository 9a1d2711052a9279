-- Leases one batch: one that waits for redelivery, or a fresh one of the oldest records.
-- ARGV: see below. The reply begins with its kind:
--   {'fresh',  id, attempt, deadline, now, records}
--   {'again',  id, attempt, deadline, now, meta hash}   redelivered
--   {'settle', id, attempt, deadline, now, meta hash}   has failed too often
--   {'empty',  ms until something comes due or -1, records in the ready list}
--   {'more'}                                            delayed records were moved: call again
--   {'paused'}
--   {'layout', layout of the data}
local id = ARGV[2]
local maxRecords, maxBytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local leaseMS, leastRecords = tonumber(ARGV[5]), tonumber(ARGV[6])
local maxFailures, maxCrashes = tonumber(ARGV[7]), tonumber(ARGV[8])
local backoffMS, maxBackoffMS = tonumber(ARGV[9]), tonumber(ARGV[10])
local random, fast, worker = tonumber(ARGV[11]), ARGV[12] == '1', ARGV[13]

-- Bounds of one call, so that it holds the server for a few milliseconds only.
local MAX_EXPIRED = 64 -- leases brought back
local MAX_LISTS = 100 -- delayed pushes looked at
local MAX_MERGE_RECORDS, MAX_MERGE_BYTES = 2000, 1048576 -- delayed records moved through Lua
local MAX_FAST, MAX_SLOW = 10000, 2000 -- records of a fresh batch
-- A batch of up to EXACT_RECORDS records is fitted to its bound exactly, if the bound is at most
-- EXACT_BYTES.
local EXACT_RECORDS, EXACT_BYTES = 512, 4194304
-- Native commands copy up to MAX_COPY bytes of records in one call. The memory of a list of up to
-- MAX_MEASURED records is read first, which takes as long as the list has nodes. Of a longer or
-- larger one, PROBE records are copied first: samples may miss the large ones.
local MAX_COPY, MAX_MEASURED, PROBE = 16777216, 20000, 64
local copyBytes = math.min(maxBytes, MAX_COPY)
-- A record that is a decimal number takes up to 10 bytes less in memory than it has digits.
local NUMBER_BYTES = 10

local now = serverTime()
local deadline

-- expireLeases brings the batches of expired leases back. Only the lease of a worker whose own code
-- held the batch is a crash. A settling lease is not, nor is one whose holder last extended it as
-- waiting for the durable side.
local function expireLeases()
  local expired = redis.call('ZRANGEBYSCORE', LEASES, '-inf', int(now), 'LIMIT', 0, MAX_EXPIRED)
  if expired[1] then redis.call('ZSCORE', REDO, '') end -- a wrong type ends the script here
  for i, x in ipairs(expired) do
    local meta = read('HMGET', metaOf(x), 'st', 'waits', 'crashes')
    if not meta or not meta[1] or meta[3] and not number(meta[3]) then
      setAside(x, now)
    else
      local state, waits = meta[1], meta[2]
      redis.call('ZREM', LEASES, x)
      local due = now
      if state == 'L' and not waits then
        local crashes = redis.call('HINCRBY', metaOf(x), 'crashes', 1)
        due = now + math.floor(backoff(crashes, backoffMS, maxBackoffMS, (random + i * 0.37) % 1))
      end
      redis.call('HSET', metaOf(x), 'st', 'R')
      redis.call('ZADD', REDO, int(due), x)
    end
  end
end

-- redeliver leases a batch that waits, and returns the reply.
local function redeliver()
  for _, x in ipairs(redis.call('ZRANGEBYSCORE', REDO, '-inf', int(now), 'LIMIT', 0, MAX_EXPIRED)) do
    local meta, flat = readMeta(x, now)
    if not meta then
      setAside(x, now)
    else
      local failed = (number(meta.fails) or 0) >= maxFailures or (number(meta.crashes) or 0) >= maxCrashes
      redis.call('ZREM', REDO, x)
      local attempt = redis.call('HINCRBY', metaOf(x), 'att', 1)
      redis.call('HSET', metaOf(x), 'st', failed and 'S' or 'L', 'worker', worker, 'call', id)
      if meta.waits then redis.call('HDEL', metaOf(x), 'waits') end
      redis.call('ZADD', LEASES, int(deadline), x)
      redis.call('HSET', STAT, 'clock', int(now))
      if not failed then count('redelivered', number(meta.n)) end
      return {failed and 'settle' or 'again', x, attempt, deadline, now, flat}
    end
  end
end

-- A delayed push may have large records after small ones.
local MOST_AT_ONCE = 16

-- mergeList moves records of one delayed list to the ready list, oldest first, within a budget.
-- It returns the records and bytes moved.
local function mergeList(list, length, maxMoved, maxSize)
  local moved, size, step = 0, 0, MOST_AT_ONCE
  while moved < length and moved < maxMoved and size < maxSize do
    local part = redis.call('RPOP', list, math.min(length - moved, maxMoved - moved, step))
    redis.call('LPUSH', READY, unpack(part))
    moved = moved + #part
    for _, record in ipairs(part) do size = size + #record end
    step = math.max(1, math.min(MOST_AT_ONCE, math.floor(65536 * moved / (size + 1))))
  end
  return moved, size
end

-- mergeDelayed moves delayed records that are due to the ready list. A push that fills a batch
-- alone stays in its list, to be leased from there. It returns the id and length of such a push,
-- and whether small ones are left over.
local function mergeDelayed()
  local moved, size, left = 0, 0, false
  local large, largeLength
  for _, x in ipairs(redis.call('ZRANGEBYSCORE', DELAYED, '-inf', int(now), 'LIMIT', 0, MAX_LISTS)) do
    local length = read('LLEN', delayedListOf(x))
    if not length or length == 0 then
      redis.call('ZREM', DELAYED, x) -- gone, or of a wrong type: Audit names it
    elseif length >= maxRecords then
      if not large then large, largeLength = x, length end
    elseif moved >= MAX_MERGE_RECORDS or size >= MAX_MERGE_BYTES then
      left = true
      break
    else
      local n, bytes = mergeList(delayedListOf(x), length, MAX_MERGE_RECORDS - moved, MAX_MERGE_BYTES - size)
      if n == length then redis.call('ZREM', DELAYED, x) else left = true end
      moved, size = moved + n, size + bytes
    end
  end
  count('delayed', -moved)
  return large, largeLength, left or moved > 0 and redis.call('ZCOUNT', DELAYED, '-inf', int(now)) > 0
end

-- fillUp moves as many records of a push that fills a batch alone to the ready list as its batch
-- lacks, and returns how many.
local function fillUp(x, length, lacking)
  needsKeys('l:')
  local n = mergeList(delayedListOf(x), length, lacking, MAX_MERGE_BYTES)
  if n == length then redis.call('ZREM', DELAYED, x) end
  count('delayed', -n)
  return n
end

-- dueIn returns how many milliseconds it is until a lease expires, a batch may be redelivered, or a
-- delayed push is due. -1: none is.
local function dueIn()
  local due
  for _, set in ipairs({LEASES, REDO, DELAYED}) do
    local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]
    if first then due = math.min(due or math.huge, timeOf(first, now)) end
  end
  return due and math.max(math.ceil(due - now), 0) or -1
end

-- guessRecords returns how many of the oldest n records probably fit in copyBytes, from the size of
-- some of them and the average size of the batches before. It reads only one of them if n records
-- of twice that size would still fit.
local function guessRecords(source, n, average)
  local largest = average
  for i, part in ipairs({random, 0, 1, random * 7 % 1, random * 31 % 1}) do
    local record = redis.call('LINDEX', source, -1 - math.floor(part * (n - 1)))
    if record then largest = math.max(largest, #record) end
    if largest > copyBytes or i == 1 and average > 0 and largest * n * 2 <= copyBytes then break end
  end
  if largest * n <= copyBytes then return n end
  return math.max(1, math.min(n, math.ceil(copyBytes * 1.1 / largest)))
end

-- memoryOf returns an upper bound of the bytes of a list's n records.
local function memoryOf(list, n)
  return redis.call('MEMORY', 'USAGE', list, 'SAMPLES', 0) + NUMBER_BYTES * n
end

-- fitExactly returns how many of the oldest of a list's n records fit in copyBytes, at least one.
local function fitExactly(list, n)
  local fit, size, step = 0, 0, 1
  while fit < n do
    local part = redis.call('LRANGE', list, math.max(n - fit - step, 0), n - fit - 1)
    for i = #part, 1, -1 do
      if fit > 0 and size + #part[i] > copyBytes then return fit end
      size, fit = size + #part[i], fit + 1
    end
    step = math.min(step * 2, 64)
  end
  return n
end

-- trimToBytes drops the youngest records of a list of n until the rest fits in copyBytes, and
-- returns how many are left. Native commands do it, because a record that passes through Lua costs
-- more than all the rest. A long list may end below its bound.
local function trimToBytes(list, n)
  local least = copyBytes <= EXACT_BYTES and EXACT_RECORDS or 1
  local size = memoryOf(list, n)
  while size > copyBytes and n > least do
    n = math.max(least, math.floor(n * copyBytes / size))
    redis.call('LTRIM', list, -n, -1)
    size = memoryOf(list, n)
  end
  if size > copyBytes and n > 1 then
    n = fitExactly(list, n)
    redis.call('LTRIM', list, -n, -1)
  end
  return n, size
end

-- copy copies the oldest n records of a list.
local function copy(source, length, batch, n)
  redis.call('SORT', source, 'BY', 'nosort', 'LIMIT', length - n, n, 'STORE', batch)
end

-- limit returns how many of n records to copy if each takes so much memory, and at least PROBE.
local function limit(n, each)
  if each * n <= MAX_COPY then return n end
  return math.min(n, math.max(PROBE, math.floor(copyBytes * 1.1 / each)))
end

-- probe copies a few of the oldest n records, and returns how many to copy if the others are like
-- them.
local function probe(source, length, batch, n)
  if n <= PROBE then return n end
  copy(source, length, batch, PROBE)
  return limit(n, memoryOf(batch, 0) / PROBE)
end

-- moveFast moves up to n of the oldest records of a list to another one, by native commands.
-- It returns how many, and the bytes that they take.
local function moveFast(source, length, batch, n, average)
  local all = length <= MAX_MEASURED and memoryOf(source, length)
  if n == length and (all <= maxBytes or n == 1) then
    redis.call('RENAME', source, batch)
    return n, all
  end
  if not all or all > copyBytes then
    n = guessRecords(source, n, average)
    if all then n = limit(n, all / length) end
    n = probe(source, length, batch, n)
  end
  copy(source, length, batch, n)
  local size
  n, size = trimToBytes(batch, n)
  if n == length then
    redis.call('UNLINK', source)
  else
    redis.call('LTRIM', source, 0, length - n - 1)
  end
  return n, size
end

-- moveSlow does the same record by record, where the server lacks the commands.
local function moveSlow(source, batch, n)
  local size, k = 0, 0
  while k < n do
    local record = redis.call('LMOVE', source, batch, 'RIGHT', 'LEFT')
    if k > 0 and size + #record > maxBytes then
      redis.call('LMOVE', batch, source, 'LEFT', 'RIGHT')
      break
    end
    size, k = size + #record, k + 1
  end
  return k, size
end

-- seal makes a batch of the oldest records of a list, and returns the reply. The batch keeps the
-- order of the list: the oldest record, position 0, is at its right end. The first write is the one
-- to the set that was not read before: a wrong type ends the script there. The average falls by
-- half at most, or a few small records would hide that others are large.
local function seal(source, length, stat)
  local batch, n, size = listOf(id), math.min(length, maxRecords, fast and MAX_FAST or MAX_SLOW), 0
  redis.call('ZADD', OPEN, int(now), id)
  if fast then
    n, size = moveFast(source, length, batch, n, stat.average)
  else
    n, size = moveSlow(source, batch, n)
  end
  redis.call('HSET', metaOf(id), 'n', n, 'att', 1, 'st', 'L', 'root', id, 'off', 0, 'sealed', int(now),
    'first', int(now), 'worker', worker)
  redis.call('ZADD', LEASES, int(deadline), id)
  redis.call('HSET', STAT, 'taken', plus(stat.taken, n), 'inflight', plus(stat.inflight, n), 'clock', int(now),
    'avg', math.max(math.ceil(size / n), math.floor(stat.average / 2)), 'layout', LAYOUT)
  return {'fresh', id, 1, deadline, now, n}
end

-- readStat reads what the lease needs of the books. Each redis.call costs some microseconds, so
-- this is one, and a seal writes the sums back in one.
local function readStat()
  local v = redis.call('HMGET', STAT, 'paused', 'avg', 'layout', 'clock', 'taken', 'inflight', 'delayed')
  return {
    paused = v[1], average = number(v[2]) or 0, layout = v[3], clock = number(v[4]) or 0,
    taken = v[5], inflight = v[6], delayed = v[7],
  }
end

local stat = readStat()
if stat.layout and stat.layout ~= LAYOUT then return {'layout', stat.layout} end
if stat.paused then return {'paused'} end
needs('HDEL', 'HGETALL', 'HINCRBY', 'HSET', 'LINDEX', 'LPUSH', 'LRANGE', 'LTRIM', 'RPOP', 'UNLINK', 'ZADD', 'ZCOUNT', 'ZRANGE', 'ZREM',
  fast and 'SORT' or 'LMOVE', fast and 'RENAME' or 'LMOVE', fast and 'MEMORY USAGE' or 'LMOVE')
needsKeys('b:', 'm:')
local length = redis.call('LLEN', READY)
followClock(now, stat.clock)
deadline = now + leaseMS
expireLeases()
local again = redeliver()
if again then return again end

local large, largeLength
if stat.delayed and stat.delayed ~= '0' or length == 0 then
  local left
  large, largeLength, left = mergeDelayed()
  length = redis.call('LLEN', READY)
  if left and length < maxRecords then return {'more'} end
end
if large and length > 0 and length < maxRecords and maxRecords - length <= MAX_MERGE_RECORDS then
  length = length + fillUp(large, largeLength, maxRecords - length)
elseif large and (length < leastRecords or length == 0 or random < 0.5) then
  needsKeys('l:')
  local reply = seal(delayedListOf(large), largeLength, stat)
  count('delayed', -reply[6])
  if reply[6] == largeLength then redis.call('ZREM', DELAYED, large) end
  return reply
end
if length == 0 or length < leastRecords then return {'empty', dueIn(), length} end
return seal(READY, length, stat)

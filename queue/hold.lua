-- What only the holder of a lease may do with its batch. Returns -1 to any other caller, and -2
-- when the keys of the batch are inconsistent.
-- ARGV: prefix, operation, id, attempt, state, and then what the operation takes.
local operation, id, attempt, state = ARGV[2], ARGV[3], ARGV[4], ARGV[5]

-- extend lets the lease expire `leaseMS` from now. A holder that waits for the durable side marks
-- its batch, and the mark lasts until the next extension.
local function extend(now, marked)
  local leaseMS, waits = tonumber(ARGV[6]), ARGV[7] == '1'
  redis.call('ZADD', LEASES, int(now + leaseMS), id)
  if waits then
    redis.call('HSET', metaOf(id), 'waits', 1)
  elseif marked then
    redis.call('HDEL', metaOf(id), 'waits')
  end
end

-- handoff passes the batch to the promoter: it has no deadline any more.
local function handoff(now, records)
  redis.call('ZADD', HANDED, int(now), id)
  redis.call('ZREM', LEASES, id)
  redis.call('HSET', metaOf(id), 'st', 'H')
  count('handed', records)
end

-- release gives the batch back, after a delay or, with a failure, after a backoff.
local function release(now)
  local delayMS, failure = tonumber(ARGV[6]), ARGV[7] -- a delay of -1: not given
  local backoffMS, maxBackoffMS, random = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
  if failure ~= '' then
    local failures = redis.call('HINCRBY', metaOf(id), 'fails', 1)
    redis.call('HSET', metaOf(id), 'reason', failure)
    if delayMS < 0 then delayMS = backoff(failures, backoffMS, maxBackoffMS, random) end
  end
  redis.call('ZREM', LEASES, id)
  redis.call('ZADD', REDO, int(now + math.floor(math.max(delayMS, 0))), id)
  redis.call('HSET', metaOf(id), 'st', 'R')
end

local heldState, heldAttempt, n, marked, fails = unpack(redis.call('HMGET', metaOf(id), 'st', 'att', 'n', 'waits', 'fails'))
if heldState ~= state or heldAttempt ~= attempt then return -1 end
if operation == 'extend' then
  needs('ZADD', 'HSET', 'HDEL')
else
  needs('ZADD', 'ZREM', 'HSET', 'HINCRBY')
end
local now, records = begin(), sizeOf(n)
if not records or fails and not number(fails) then
  setAside(id, now)
  return -2
end
if operation == 'extend' then
  extend(now, marked)
elseif operation == 'handoff' then
  handoff(now, records)
else
  release(now)
end
return 1

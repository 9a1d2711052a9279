-- What only the holder of a lease may do: extend it, hand the batch off, or give it back. Answers -1 to anybody else.
-- KEYS ready stat leases redo handed open delayed never
-- ARGV prefix, op, id, attempt, state, then by op: extend: ms, waiting (1 or 0); release: delay ms (-1: backoff), failure, backoff ms, max backoff ms, random
local stat, leases, redo, handed = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local op, id = ARGV[2], ARGV[3]
local m = ARGV[1] .. 'm:' .. id
local f = redis.call('HMGET', m, 'st', 'att', 'n', 'waits')
if f[1] ~= ARGV[5] or f[2] ~= ARGV[4] then return -1 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function int(x) return string.format('%.0f', x) end
if op == 'extend' then
  redis.call('ZADD', leases, int(now + ARGV[6]), id)
  if ARGV[7] == '1' then
    redis.call('HSET', m, 'waits', 1)
  elseif f[4] then
    redis.call('HDEL', m, 'waits')
  end
  return now + ARGV[6]
end
if op == 'handoff' then
  redis.call('ZADD', handed, int(now), id)
  redis.call('ZREM', leases, id)
  redis.call('HSET', m, 'st', 'H')
  redis.call('HINCRBY', stat, 'handed', f[3])
  return now
end
local delay = tonumber(ARGV[6])
redis.call('ZCARD', redo)
if ARGV[7] ~= '' then
  local k = redis.call('HINCRBY', m, 'fails', 1)
  redis.call('HSET', m, 'reason', ARGV[7])
  if delay < 0 then
    delay = math.min(ARGV[8] * 2 ^ math.min(k - 1, 40), tonumber(ARGV[9])) * (1 - ARGV[10] / 2)
  end
end
if delay < 0 then delay = 0 end
local due = now + math.floor(delay)
redis.call('ZREM', leases, id)
redis.call('ZADD', redo, int(due), id)
redis.call('HSET', m, 'st', 'R')
return due

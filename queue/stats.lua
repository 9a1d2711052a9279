-- Reads the books in one step.
-- KEYS ready stat leases redo handed open delayed never
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local f = redis.call('HMGET', KEYS[2], 'delayed', 'inflight', 'handed', 'dead', 'taken', 'acked', 'dropped', 'redelivered',
  'requeued', 'splits', 'paused')
local first = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')
local out = {redis.call('LLEN', KEYS[1]), redis.call('ZCARD', KEYS[3]), redis.call('ZCARD', KEYS[4]), redis.call('ZCARD', KEYS[5]),
  first[2] and now - first[2] or -1}
for i = 1, 11 do out[5 + i] = tonumber(f[i] or 0) end
return out

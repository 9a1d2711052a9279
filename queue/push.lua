-- Pushes everything or nothing: by true depth, whoever else pushes. Without a time to the ready list, with one to a list of
-- its own that a lease empties into the ready list when the time has come.
-- KEYS ready stat leases redo handed open delayed never
-- ARGV prefix, max depth (0: none), due ms ('': now), id, payloads…
local n = #ARGV - 4
local max = tonumber(ARGV[2])
local f = redis.call('HMGET', KEYS[2], 'inflight', 'delayed')
local depth = redis.call('LLEN', KEYS[1]) + (f[1] or 0) + (f[2] or 0)
if max > 0 and depth + n > max then return {0, depth} end
local to = KEYS[1]
if ARGV[3] ~= '' then
  redis.call('ZCARD', KEYS[7])
  to = ARGV[1] .. 'l:' .. ARGV[4]
end
for i = 5, #ARGV, 1000 do redis.call('LPUSH', to, unpack(ARGV, i, math.min(i + 999, #ARGV))) end
if ARGV[3] ~= '' then
  redis.call('ZADD', KEYS[7], ARGV[3], ARGV[4])
  redis.call('HINCRBY', KEYS[2], 'delayed', n)
end
return {1, depth + n}

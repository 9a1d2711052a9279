-- Ends or moves the lease of a closed window, if the caller still has it.
-- KEYS 1 leases, 2 closed and not done, 3 the window
-- ARGV 1 name, 2 attempt, 3 -1: done, else the new lease from now in ms
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
if string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^%d+') ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[1], '') -- a first write that needs no memory: see take.lua
if ARGV[3] == '-1' then
  redis.call('UNLINK', KEYS[3])
  redis.call('HDEL', KEYS[2], ARGV[1])
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[1], 'XX', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])), ARGV[1])
end
return 1

-- Brings handed-off batches back at once, without counting anything against them. The attempt says that the batch is still the
-- one that was asked about: it may have come back, and been handed off anew, in between.
-- KEYS ready stat leases redo handed open delayed never
-- ARGV prefix, then for each batch: id, attempt
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local done = 0
for i = 2, #ARGV, 2 do
  local m = ARGV[1] .. 'm:' .. ARGV[i]
  local f = redis.call('HMGET', m, 'st', 'att', 'n')
  if f[1] == 'H' and f[2] == ARGV[i + 1] then
    redis.call('ZREM', KEYS[5], ARGV[i])
    redis.call('ZADD', KEYS[4], now, ARGV[i])
    redis.call('HSET', m, 'st', 'R')
    redis.call('HINCRBY', KEYS[2], 'handed', -f[3])
    done = done + 1
  elseif not f[1] then
    redis.call('ZREM', KEYS[5], ARGV[i])
  end
end
return done

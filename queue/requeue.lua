-- Takes dead records back as batches of one. They keep root and place, so they meet their own claims, and start anew otherwise.
-- KEYS ready stat leases redo handed open delayed never
-- ARGV prefix, then for each record: id of the dead record, id of the new batch
local prefix, stat, redo, open = ARGV[1], KEYS[2], KEYS[4], KEYS[6]
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local done = 0
for i = 2, #ARGV, 2 do
  local d, x = prefix .. 'd:' .. ARGV[i], ARGV[i + 1]
  local f = redis.call('HMGET', d, 'p', 'root', 'off', 'first', 'att')
  if f[1] then
    redis.call('LPUSH', prefix .. 'b:' .. x, f[1])
    redis.call('HSET', prefix .. 'm:' .. x, 'n', 1, 'att', 0, 'st', 'R', 'root', f[2], 'off', f[3], 'sealed', now,
      'first', f[4], 'past', f[5])
    redis.call('ZADD', redo, now, x)
    redis.call('ZADD', open, now, x)
    redis.call('ZREM', prefix .. 'dead', ARGV[i])
    redis.call('UNLINK', d)
    done = done + 1
  end
end
if done > 0 then
  redis.call('HINCRBY', stat, 'dead', -done)
  redis.call('HINCRBY', stat, 'inflight', done)
  redis.call('HINCRBY', stat, 'requeued', done)
end
return done

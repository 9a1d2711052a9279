-- Makes the list of a delayed push, or completes it. Until then the list expires, so that a
-- producer that dies leaves nothing behind.
-- ARGV: prefix, operation, id, ms that the list lasts, and then:
--   'begin': the first records
--   'end':   records, due ms, reservation
-- Returns how many records the list has, or 0 at the end if it does not have all of them.
local operation, id, lastsMS = ARGV[2], ARGV[3], ARGV[4]
local list = delayedListOf(id)
needs('LPUSH', 'PEXPIRE', 'PERSIST', 'ZADD', 'ZREM', 'HINCRBY', 'HSET')
checkTypes()
checkLayout(redis.call('HGET', STAT, 'layout'))
redis.call('ZCARD', PUSHING)
if operation == 'begin' then
  redis.call('LPUSH', list, unpack(ARGV, 5))
  redis.call('PEXPIRE', list, lastsMS)
  return redis.call('LLEN', list)
end
local records, due, reservation = tonumber(ARGV[5]), ARGV[6], ARGV[7]
if redis.call('LLEN', list) ~= records then return 0 end
if redis.call('ZREM', PUSHING, reservation .. ':' .. int(records)) == 1 then
  count('reserved', -records)
end
redis.call('PERSIST', list)
redis.call('ZADD', DELAYED, due, id)
count('delayed', records)
redis.call('HSET', STAT, 'layout', LAYOUT)
return records

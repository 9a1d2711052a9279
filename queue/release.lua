-- Ends a reservation, when its records are in the ready list or will never be.
-- ARGV: prefix, records, reservation.
local records, reservation = tonumber(ARGV[2]), ARGV[3]
needs('ZREM', 'HINCRBY')
checkLayout(redis.call('HGET', STAT, 'layout'))
if redis.call('ZREM', PUSHING, reservation .. ':' .. int(records)) == 1 then
  count('reserved', -records)
end
return 1

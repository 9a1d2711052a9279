-- Compares the sums of the reservations with the reservations. Reply {sums, then what they should
-- be, waiters without and with a place}
local keptRecords, keptBytes = heldRecords, heldBytes
recount()
local lost = 0
for _, member in ipairs(redis.call('ZRANGE', WAITERS, 0, MAX_STEP - 1)) do
  if not redis.call('ZSCORE', QUEUE, member) then lost = lost + 1 end
end
return {keptRecords, keptBytes, heldRecords, heldBytes, lost, redis.call('ZCARD', WAITERS), redis.call('ZCARD', QUEUE)}

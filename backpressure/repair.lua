-- Sets the sums of the reservations to what they are, removes entries that are no reservation or
-- have no time, and removes from the queue each waiter that is in only one of its two sets.
for _, member in ipairs(call('ZRANGE', HELD, 0, MAX_STEP - 1)) do
  if not isReservation(member) then call('ZREM', HELD, member) end
end
recount()
for _, member in ipairs(call('ZRANGE', WAITERS, 0, MAX_STEP - 1)) do
  if not call('ZSCORE', QUEUE, member) then call('ZREM', WAITERS, member) end
end
for _, member in ipairs(call('ZRANGE', QUEUE, 0, MAX_STEP - 1)) do
  if not call('ZSCORE', WAITERS, member) then call('ZREM', QUEUE, member) end
end
grantWaiting()
finish()
return reply(0, 0)

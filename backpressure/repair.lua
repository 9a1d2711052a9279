-- Sets the sums of the reservations to what they are, and removes from the queue who has no place
-- in both of its sets.
recount()
for _, member in ipairs(redis.call('ZRANGE', WAITERS, 0, MAX_STEP - 1)) do
  if not redis.call('ZSCORE', QUEUE, member) then redis.call('ZREM', WAITERS, member) end
end
for _, member in ipairs(redis.call('ZRANGE', QUEUE, 0, MAX_STEP - 1)) do
  if not redis.call('ZSCORE', WAITERS, member) then redis.call('ZREM', QUEUE, member) end
end
grantWaiting()
finish()
return reply(0, 0)

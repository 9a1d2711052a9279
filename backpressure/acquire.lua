-- Asks for a reservation, or asks again for one that waits. A reservation that the caller has
-- already is prolonged.
local member, n, b, life, wait = ARGV[15], tonumber(ARGV[16]), tonumber(ARGV[17]), tonumber(ARGV[18]), tonumber(ARGV[19])
grantWaiting()
local mine = producers > 0 and call('ZSCORE', HELD, member)
if mine then
  call('ZADD', HELD, int(clock + life), member)
elseif not (waiting and call('ZSCORE', QUEUE, member)) then
  local ahead = waiting and call('ZCARD', QUEUE) or 0
  if not closed and not full and ahead == 0 then
    local why = refused(n, b, HIGH, HIGH_BYTES)
    if why == '' then
      hold(member, n, b, life)
      mine = true
    else
      closed = why
    end
  end
  if not mine and wait > 0 then enqueue(member) end
end
if not mine and wait > 0 then await(member, wait) end
finish()
return reply(mine and 1 or 0, 0)

-- Reads the gate and changes nothing. Reservations that have expired do not count.
for _, member in ipairs(call('ZRANGEBYSCORE', HELD, '-inf', int(clock), 'LIMIT', 0, MAX_STEP)) do
  local _, n, b = parse(member)
  heldRecords, heldBytes, producers = heldRecords - n, heldBytes - b, producers - 1
end
return reply(0, 0)

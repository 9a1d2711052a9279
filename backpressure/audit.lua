-- Compares the sums of the reservations with the reservations. Reply {sums, then what they should
-- be, waiters without and with a place, entries of held that are no reservation or have no time}
local function keptSum(text, sum) -- without reservations, and without the field, the next call sets it
  if producers == 0 or not text then return sum end
  return number(text) or -1
end
local keptRecords, keptBytes = keptSum(state[5], heldRecords), keptSum(state[6], heldBytes)
recount()
local lost = 0
for _, member in ipairs(call('ZRANGE', WAITERS, 0, MAX_STEP - 1)) do
  if not call('ZSCORE', QUEUE, member) then lost = lost + 1 end
end
local odd = 0
for _, member in ipairs(call('ZRANGE', HELD, 0, MAX_STEP - 1)) do
  if not isReservation(member) then odd = odd + 1 end
end
return {keptRecords, keptBytes, heldRecords, heldBytes, lost, call('ZCARD', WAITERS), call('ZCARD', QUEUE), odd}

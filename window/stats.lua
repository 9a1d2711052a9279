-- Counts in one step. Reply {keys, due, leased, dead windows, windows of any state, late, offset of
-- the clock, the books, for how long the first due window has been due (ms), names and texts of the
-- books that hold no number}
local late = 0
for bucket = 0, lateSplit and BUCKETS or 0 do late = late + redis.call('ZCARD', setKey('late', '', bucket)) end
local reply = {redis.call('ZCARD', IDLE), redis.call('ZCARD', DUE), redis.call('ZCARD', LEASES), redis.call('ZCARD', DEAD),
  redis.call('ZCARD', EXPIRY), late, offset}
local BOOKS, damaged = {'added', 'open', 'due', 'leased', 'dead', 'done', 'discarded', 'expired'}, {}
local values = redis.call('HMGET', META, unpack(BOOKS))
for i, name in ipairs(BOOKS) do
  local text = values[i] or '0'
  reply[#reply + 1] = number(text) or 0
  if not number(text) then
    damaged[#damaged + 1] = name
    damaged[#damaged + 1] = string.sub(text, 1, 64)
  end
end
local first = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')[2]
reply[#reply + 1] = first and int(math.max(0, clock - timeOf(first, clock))) or '0'
reply[#reply + 1] = damaged
return reply

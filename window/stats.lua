-- Counts in one step. Reply {keys, due, leased, dead windows, windows of any state, late, offset of
-- the clock, the books, for how long the first due window has been due (ms), names and texts of the
-- books that hold no number}
local late = 0
for bucket = 0, lateSplit and BUCKETS or 0 do late = late + call('ZCARD', setKey('late', '', bucket)) end
local reply = {}
for i, kind in ipairs(KINDS) do reply[i] = countNames(kind, '') end
reply[#reply + 1] = late
reply[#reply + 1] = offset
local BOOKS, damaged = {'added', 'open', 'due', 'leased', 'dead', 'done', 'discarded', 'expired'}, {}
local values = call('HMGET', META, unpack(BOOKS))
for i, name in ipairs(BOOKS) do
  local text = values[i] or '0'
  reply[#reply + 1] = number(text) or 0
  if not number(text) then
    damaged[#damaged + 1] = name
    damaged[#damaged + 1] = string.sub(text, 1, 64)
  end
end
local first = firstScore('due', '')
reply[#reply + 1] = first and int(math.max(0, clock - timeOf(first, clock))) or '0'
reply[#reply + 1] = damaged
return reply

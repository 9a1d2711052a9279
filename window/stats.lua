-- Counts in one step. Reply {keys, due, leased, dead windows, windows of any state, late, offset of
-- the clock, then the books}
local late = 0
for bucket = 0, lateSplit and BUCKETS or 0 do late = late + redis.call('ZCARD', setKey('late', '', bucket)) end
local reply = {redis.call('ZCARD', IDLE), redis.call('ZCARD', DUE), redis.call('ZCARD', LEASES), redis.call('ZCARD', DEAD),
  redis.call('ZCARD', EXPIRY), late, offset}
for _, n in ipairs(redis.call('HMGET', META, 'added', 'open', 'due', 'leased', 'dead', 'done', 'discarded', 'expired')) do
  reply[#reply + 1] = tonumber(n or '0')
end
return reply

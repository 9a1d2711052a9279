-- Reads the books in one step: pairs of a name and a number, and pairs of a counter that holds no
-- number, which is 0 in the others, and the beginning of its text. It writes nothing, so a reader
-- may run it.
local COUNTERS = {'delayed', 'inflight', 'handed', 'dead', 'taken', 'acked', 'dropped', 'lost', 'redelivered',
  'requeued', 'splits', 'clock_steps', 'reserved'}
local now = serverTime()
checkLayout(redis.call('HGET', STAT, 'layout'))
local values = redis.call('HMGET', STAT, 'clock', 'paused', unpack(COUNTERS))
local oldest = redis.call('ZRANGE', OPEN, 0, 0, 'WITHSCORES')[2]
local seen = number(values[1]) or 0
local behind = seen - now <= MAX_AHEAD_MS and math.max(seen - now, 0) or 0
local out, damaged = {
  'ready', redis.call('LLEN', READY),
  'leased', redis.call('ZCARD', LEASES),
  'waiting', redis.call('ZCARD', REDO),
  'handed_batches', redis.call('ZCARD', HANDED),
  'broken', redis.call('ZCARD', BROKEN),
  'at', now + behind,
  'oldest_age', oldest and math.floor(now + behind - timeOf(oldest, now)) or 0,
  'clock_behind', behind,
  'paused', values[2] and 1 or 0,
}, {}
for i, name in ipairs(COUNTERS) do
  local text = values[i + 2] or '0'
  out[#out + 1] = name
  out[#out + 1] = number(text) or 0
  if not number(text) then
    damaged[#damaged + 1] = name
    damaged[#damaged + 1] = string.sub(text, 1, 64)
  end
end
return {out, damaged}

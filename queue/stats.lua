-- Reads the books in one step, as pairs of a name and a number. It writes nothing, so a reader may
-- run it.
local COUNTERS = {'delayed', 'inflight', 'handed', 'dead', 'taken', 'acked', 'dropped', 'lost', 'redelivered',
  'requeued', 'splits', 'clock_steps', 'reserved', 'paused'}
local now = serverTime()
local values = redis.call('HMGET', STAT, 'clock', unpack(COUNTERS))
local oldest = redis.call('ZRANGE', OPEN, 0, 0, 'WITHSCORES')[2]
local out = {
  'ready', redis.call('LLEN', READY),
  'leased', redis.call('ZCARD', LEASES),
  'waiting', redis.call('ZCARD', REDO),
  'handed_batches', redis.call('ZCARD', HANDED),
  'broken', redis.call('ZCARD', BROKEN),
  'oldest_age', oldest and math.floor(now - oldest) or 0,
  'clock_behind', math.max(tonumber(values[1] or 0) - now, 0),
}
for i, name in ipairs(COUNTERS) do
  out[#out + 1] = name
  out[#out + 1] = tonumber(values[i + 1] or 0)
end
return out

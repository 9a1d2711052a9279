-- Closes the windows of idle keys, then leases windows that are closed: first those whose closer has gone, then the due ones.
-- KEYS 1 keys by their last event, 2 due windows, 3 closed and not done, 4 leases
-- ARGV 1 prefix of the keys, 2 how many at most, 3 lease, 4 idle, 5 retention (ms)
-- The keys of a window are made from its name here; they are in the same slot.
local prefix, n = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function s(n) return string.format('%.0f', n) end

-- A server at its maxmemory refuses a script's first write if it needs memory, and none after one that does not. Closing
-- is what frees memory, so it must go on then: begin with a write that frees nothing.
redis.call('ZREM', KEYS[2], '')

for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', s(now - tonumber(ARGV[4])), 'LIMIT', 0, math.min(n, 20))) do
  local open = redis.call('ZRANGE', prefix .. 'o:' .. key, 0, 49, 'WITHSCORES')
  for i = 1, #open, 2 do
    local start, stop = open[i], tonumber(open[i + 1])
    local name = start .. ' ' .. s(stop - start) .. ' ' .. key
    redis.call('ZADD', KEYS[2], s(now), name)
    redis.call('HSET', KEYS[3], name, '0 idle')
    redis.call('ZREM', prefix .. 'o:' .. key, start)
    local floor = tonumber(redis.call('HGET', prefix .. 'm:' .. key, 'floor') or '-inf') or -math.huge
    if stop > floor then redis.call('HSET', prefix .. 'm:' .. key, 'floor', s(stop)) end
  end
  redis.call('PEXPIRE', prefix .. 'm:' .. key, ARGV[5])
  if redis.call('EXISTS', prefix .. 'o:' .. key) == 0 then redis.call('ZREM', KEYS[1], key) end
end

local names = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', s(now), 'LIMIT', 0, n)
if #names < n then
  for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, n - #names - 1)) do names[#names + 1] = name end
end
local reply = {}
for _, name in ipairs(names) do
  local size = redis.call('ZCARD', prefix .. 'w:' .. name)
  local attempt, reason = string.match(redis.call('HGET', KEYS[3], name) or '0 unknown', '^(%d+) (%a+)$')
  redis.call('ZREM', KEYS[2], name)
  if size == 0 then
    -- Nobody came for it in all its retention.
    redis.call('ZREM', KEYS[4], name)
    redis.call('HDEL', KEYS[3], name)
  else
    redis.call('HSET', KEYS[3], name, s(attempt + 1) .. ' ' .. reason)
    redis.call('ZADD', KEYS[4], s(now + tonumber(ARGV[3])), name)
    redis.call('PEXPIRE', prefix .. 'w:' .. name, ARGV[5])
  end
  reply[#reply + 1] = {name, attempt + 1, reason, size}
end
for i = 1, 4 do redis.call('PEXPIRE', KEYS[i], s(2 * tonumber(ARGV[5]))) end
return reply

-- One look at a gate: what is there, what is reserved, whether it is open; then one of ask, done, notify, state.
-- KEYS 1 the flag of a closed gate, 2 the reservations, then those of the sources (records, bytes, lag)
-- ARGV 1 op, 2 member of the reservation, 3 records, 4 bytes, 5 time to live of it in ms, 6 channel,
--      7 high, 8 low, 9 high bytes, 10 low bytes, 11 high lag, 12 low lag (0: none), 13 lag known by the caller in ms, -1: none,
--      14 how many sources count records, 15 how many count bytes, then field ('' for a list) and sign of each
local op, high, low = ARGV[1], tonumber(ARGV[7]), tonumber(ARGV[8])
local highBytes, lowBytes = tonumber(ARGV[9]), tonumber(ARGV[10])
local highLag, lowLag, lag = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- The depth is read where it is true, and never kept.
local nRecords, nBytes = tonumber(ARGV[14]), tonumber(ARGV[15])
local records, bytes = 0, 0
for i = 1, nRecords + nBytes do
  local key, field, sign, n = KEYS[2 + i], ARGV[14 + 2 * i], tonumber(ARGV[15 + 2 * i]), 0
  if field == '' then n = redis.call('LLEN', key) else n = tonumber(redis.call('HGET', key, field) or '0') or 0 end
  if i <= nRecords then records = records + sign * n else bytes = bytes + sign * n end
end
if KEYS[3 + nRecords + nBytes] then
  local oldest = redis.call('ZRANGE', KEYS[3 + nRecords + nBytes], 0, 0, 'WITHSCORES')
  lag = 0
  if oldest[2] then lag = math.max(0, now - tonumber(oldest[2])) end
end

local gone = 1
if op == 'done' then gone = redis.call('ZREM', KEYS[2], ARGV[2]) end

-- What has been allowed and is not known to be pushed counts as if it were there.
local heldRecords, heldBytes, producers = 0, 0, 0
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. string.format('%.0f', now), '+inf')) do
  local n, b = string.match(member, ' (%d+) (%d+)$')
  heldRecords, heldBytes, producers = heldRecords + tonumber(n), heldBytes + tonumber(b), producers + 1
end

local closed = redis.call('EXISTS', KEYS[1]) == 1
local what = ''
local function reply(granted)
  return {granted, what, closed and 1 or 0, records, heldRecords, bytes, heldBytes, math.max(lag, 0), producers, gone}
end
if op == 'state' then return reply(0) end

-- Closed stays closed until everything is down at its low mark.
if high > 0 and records + heldRecords > low then what = 'records'
elseif highBytes > 0 and bytes + heldBytes > lowBytes then what = 'bytes'
elseif highLag > 0 and lag > lowLag then what = 'lag' end
if closed and what == '' then
  closed = false
  redis.call('DEL', KEYS[1])
  redis.call('PUBLISH', ARGV[6], 'open')
end
if op ~= 'ask' then return reply(0) end
if closed then
  redis.call('PEXPIRE', KEYS[1], 86400000)
  return reply(0)
end

local n, b = tonumber(ARGV[3]), tonumber(ARGV[4])
what = ''
if high > 0 and records + heldRecords + n > high then what = 'records'
elseif highBytes > 0 and bytes + heldBytes + b > highBytes then what = 'bytes'
elseif highLag > 0 and lag >= highLag then what = 'lag' end

-- A server at its maxmemory refuses what writes; then there is no room, whatever the marks say.
local function write(...)
  local r = redis.pcall(...)
  if type(r) == 'table' and r.err then
    if string.find(r.err, 'OOM', 1, true) then what = 'memory' return false end
    error(r.err)
  end
  return true
end
if what ~= '' then
  if write('SET', KEYS[1], what, 'PX', 86400000) then closed = true end
  return reply(0)
end
-- The ZADD goes first: after a write that frees, a script may write at maxmemory too.
if not write('ZADD', KEYS[2], string.format('%.0f', now + tonumber(ARGV[5])), ARGV[2]) then return reply(0) end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[5]) then redis.call('PEXPIRE', KEYS[2], ARGV[5]) end
return reply(1)

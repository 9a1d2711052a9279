-- Every script of this package begins with this: it reads the gate as it is.
-- KEYS 1 state, 2 a key that never exists (see internal/redisx), 3 held, 4 queue, 5 waiters. The
--      keys of sources are in ARGV: Redis requires write permission for what is in KEYS.
-- ARGV 1 layout version, 2 channel, 3 high, 4 low, 5 high bytes, 6 low bytes, 7 high lag,
--      8 low lag (ms; 0: none), 9 lag known by the caller in ms (-1: none), 10 high memory, 11 low
--      memory (in millionths of maxmemory; 0: none), 12 how many sources count records, 13 how many
--      count bytes, 14 life of a grant that its producer has not picked up (ms), 15 member,
--      16 records, 17 bytes, 18 life of the reservation (ms), 19 life of a place in the queue (ms;
--      0: do not wait), 20 the sorted set of the lag ('': none), then of each source its key, field
--      ('' for a list), sign, and 1 if the field may be missing
local STATE, HELD, QUEUE, WAITERS = KEYS[1], KEYS[3], KEYS[4], KEYS[5]
local FIRST_SOURCE = 21
local HIGH, LOW, HIGH_BYTES, LOW_BYTES = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local HIGH_LAG, LOW_LAG, HIGH_MEMORY, LOW_MEMORY = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[10]), tonumber(ARGV[11])
local RECORD_SOURCES, BYTE_SOURCES = tonumber(ARGV[12]), tonumber(ARGV[13])
local MAX_STEP = 1000 -- reservations or waiters that one script expires or grants at most

local function int(n) return string.format('%.0f', n) end -- tostring would round to 14 digits

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local state = call('HMGET', STATE, 'layout', 'closed', 'clock', 'offset', 'records', 'bytes', 'kept')
if state[1] and state[1] ~= ARGV[1] then return redis.error_reply('HEADRACE layout ' .. state[1]) end

-- Reservations are timed by a clock of our own. It is the server's, and goes on where it was when
-- that is set back.
local offset, before = number(state[4]) or 0, number(state[3]) or 0
if offset < 0 or offset > MAX_AHEAD_MS then offset = 0 end
if now < before and isTime(before, now) then offset = offset + before - now end
local clock = now + offset

-- The depth is read where it is true, and never kept.
local records, bytes = 0, 0
for i = 1, RECORD_SOURCES + BYTE_SOURCES do
  local at = FIRST_SOURCE + 4 * (i - 1)
  local key, field, sign, optional = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3]
  local value
  if field == '' then value = redis.pcall('LLEN', key) else value = redis.pcall('HGET', key, field) end
  if type(value) == 'table' and value.err then
    if string.find(value.err, 'WRONGTYPE', 1, true) then
      return redis.error_reply('HEADRACE source ' .. key .. ' is not a ' .. (field == '' and 'list' or 'hash'))
    end
    return value
  end
  if not value and (optional == '1' or call('EXISTS', key) == 0) then value = 0 end
  if not value then return redis.error_reply('HEADRACE source ' .. key .. ' has no field ' .. field) end
  local n = type(value) == 'number' and value or number(value)
  if not n then
    return redis.error_reply('HEADRACE source field ' .. field .. ' of ' .. key .. ' is not an integer: ' .. string.sub(value, 1, 64))
  end
  if i <= RECORD_SOURCES then records = records + sign * n else bytes = bytes + sign * n end
end
records, bytes = math.max(0, records), math.max(0, bytes)

local lag = tonumber(ARGV[9])
local lagKey = ARGV[20]
if lagKey ~= '' then
  local oldest = redis.pcall('ZRANGE', lagKey, 0, 0, 'WITHSCORES')
  if oldest.err then
    if string.find(oldest.err, 'WRONGTYPE', 1, true) then return redis.error_reply('HEADRACE source ' .. lagKey .. ' is not a sorted set') end
    return oldest
  end
  lag = 0
  if oldest[2] then lag = math.max(0, now - timeOf(oldest[2], now)) end
end

local memory = 0
if HIGH_MEMORY > 0 then
  local info = redis.pcall('INFO', 'memory')
  if type(info) == 'table' then return redis.error_reply('HEADRACE source INFO memory: ' .. (info.err or '')) end
  local used, most = string.match(info, 'used_memory:(%d+)'), string.match(info, 'maxmemory:(%d+)')
  if not used or not most then return redis.error_reply('HEADRACE source INFO memory has no used_memory or maxmemory') end
  if tonumber(most) == 0 then return redis.error_reply('HEADRACE source maxmemory is 0') end
  memory = math.floor(used / most * 1000000)
end

-- A reservation is called "<id> <records> <bytes> <high> <high bytes>", with the marks of the one
-- who asked.
local function parse(member)
  local id, n, b, high, highBytes = string.match(member, '^(%S+) (%d+) (%d+) (%d+) (%d+)$')
  n, b, high, highBytes = number(n), number(b), number(high), number(highBytes)
  if not (n and b and high and highBytes) then return nil, 0, 0, 0, 0 end -- another program wrote it
  return id, n, b, high, highBytes
end

-- A reservation lasts an hour at most, so one that ends later was written by another program.
local function isReservation(member)
  local ends = call('ZSCORE', HELD, member)
  return parse(member) and isTime(ends, clock) and tonumber(ends) <= clock + 2 * 3600000
end

-- What has been granted and may not be pushed yet counts as if it were there. Its sums are
-- kept, too.
local producers = call('ZCARD', HELD)
local heldRecords, heldBytes = 0, 0
if producers > 0 then heldRecords, heldBytes = natural(state[5]), natural(state[6]) end
local function recount()
  heldRecords, heldBytes = 0, 0
  for _, member in ipairs(call('ZRANGE', HELD, 0, -1)) do
    local _, n, b = parse(member)
    heldRecords, heldBytes = heldRecords + n, heldBytes + b
  end
end
if not heldRecords or not heldBytes then recount() end
-- Both are read, so that a key of another type ends the script here.
local waiting = call('ZCARD', QUEUE) + call('ZCARD', WAITERS) > 0 -- producers may wait
local kept = number(state[7])
local closed = state[2] and state[2] ~= '' and state[2] or false

local full = false -- the server is at maxmemory: nothing is granted, and the gate stays as it is

-- above returns which low mark keeps a closed gate closed, or ''.
local function above()
  if HIGH > 0 and records + heldRecords > LOW then return 'records' end
  if HIGH_BYTES > 0 and bytes + heldBytes > LOW_BYTES then return 'bytes' end
  if HIGH_LAG > 0 and lag > LOW_LAG then return 'lag' end
  if HIGH_MEMORY > 0 and memory > LOW_MEMORY then return 'memory' end
  return ''
end

-- refused returns which high mark a request does not fit below, or ''.
local function refused(n, b, high, highBytes)
  if high > 0 and records + heldRecords + n > high then return 'records' end
  if highBytes > 0 and bytes + heldBytes + b > highBytes then return 'bytes' end
  if HIGH_LAG > 0 and lag >= HIGH_LAG then return 'lag' end
  if HIGH_MEMORY > 0 and memory >= HIGH_MEMORY then return 'memory' end
  return ''
end

-- nextExpiry returns in how many ms the next reservation or place in the queue expires; -1: there
-- is none.
local function nextExpiry()
  local soonest = -1
  for _, key in ipairs({HELD, WAITERS}) do
    local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
    if first then
      local ms = math.max(0, timeOf(first, clock) - clock)
      if soonest < 0 or ms < soonest then soonest = ms end
    end
  end
  return soonest
end

-- reply returns the gate. The fields for a waiting producer are only in the reply to one.
local function reply(granted, removed)
  local what = full and 'memory' or closed and above() or ''
  if closed and what == '' then what = closed end
  return {granted, removed, what, (closed or full) and 1 or 0, records, heldRecords, bytes, heldBytes, lag, producers,
    waiting and call('ZCARD', QUEUE) or 0, memory, (granted == 1 or removed == 1) and -1 or nextExpiry(), offset}
end

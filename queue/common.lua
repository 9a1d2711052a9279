-- The head of every script, after the line that sets LAYOUT. It names the keys and holds
-- what several scripts need.
--
-- Every script reads what it needs before its first write: an error in its middle would leave the
-- books wrong, because a script has no rollback.
local READY, STAT, LEASES, REDO, HANDED, OPEN, DELAYED, DEAD, BROKEN, PUSHING = unpack(KEYS)
local PREFIX = ARGV[1]

-- The states of a batch, and the set that holds the batches of each: leased, leased to be settled,
-- waiting for redelivery, handed off, broken (its keys are inconsistent).
local SET_OF = {L = LEASES, S = LEASES, R = REDO, H = HANDED, B = BROKEN}

-- How far ahead of the clock the times of each set may be: a lease or a delay lasts 30 days at
-- most, and the others are times of the past. Clocks differ by a little.
local DAY_MS = 86400000
local AHEAD_MS = {[LEASES] = 31 * DAY_MS, [REDO] = 31 * DAY_MS, [HANDED] = 60000, [OPEN] = 60000}

-- A clock that is behind the last time seen by more than this was set back.
local CLOCK_TOLERANCE_MS = 1000

local function listOf(id) return PREFIX .. 'b:' .. id end
local function metaOf(id) return PREFIX .. 'm:' .. id end
local function delayedListOf(id) return PREFIX .. 'l:' .. id end
local function deadKeyOf(id) return PREFIX .. 'd:' .. id end

-- int prints a number without exponent and fraction.
local function int(x) return string.format('%.0f', x) end

-- serverTime returns the server's clock in milliseconds.
local function serverTime()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- needsKeys ends the script if the user may not remove keys of batches, delayed pushes or dead
-- letters: 'b:', 'm:', 'l:' or 'd:'. KEYS does not name them, so the server would refuse the one
-- command that needs them, in the middle of the script.
local function needsKeys(...)
  for _, kind in ipairs({...}) do needsKey(PREFIX .. kind .. '*', 'UNLINK', PREFIX .. kind .. '-') end
end

-- fieldsOf makes a table of the reply of HGETALL.
local function fieldsOf(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

-- count adds to a counter of the books. One that holds no number stays as it is, and its script
-- goes on: Audit names it, and Repair recounts it. A negative zero is not a number to Redis 7.0.
local function count(field, n)
  if n == 0 then return end
  local reply = redis.pcall('HINCRBY', STAT, field, int(n))
  if type(reply) == 'table' and number(redis.call('HGET', STAT, field) or '0') then error(reply.err, 0) end
end

-- plus returns the new value of a counter of the books that holds a text, or no text yet.
local function plus(text, n)
  local before = number(text or '0')
  return before and int(before + n) or text
end

-- followClock moves all times of the past and future when the server's clock was set back, so that
-- each lease and delay keeps its own length. One command scales a whole set: the factor is so close
-- to 1 that a length changes by a few millionths.
local function followClock(now, seen)
  if seen - now <= CLOCK_TOLERANCE_MS or seen - now > MAX_AHEAD_MS then return end
  needs('HINCRBY', 'HSET', 'ZCARD', 'ZUNIONSTORE')
  local factor = string.format('%.17g', now / seen)
  for _, set in ipairs({LEASES, REDO, HANDED, OPEN}) do
    if redis.call('ZCARD', set) > 0 then
      redis.call('ZUNIONSTORE', set, 1, set, 'WEIGHTS', factor)
    end
  end
  count('clock_steps', 1)
  redis.call('HSET', STAT, 'clock', int(now))
end

-- checkTypes reads every shared key, so that a key of a wrong type ends the script here.
local function checkTypes()
  redis.call('LLEN', READY)
  redis.call('HLEN', STAT)
  for _, set in ipairs({LEASES, REDO, HANDED, OPEN, DELAYED, DEAD, BROKEN}) do
    redis.call('ZCARD', set)
  end
end

-- checkLayout ends the script if the data is in the layout of another version of this package.
local function checkLayout(layout)
  if layout and layout ~= LAYOUT then error('HEADRACE LAYOUT of another version', 0) end
end

-- begin is the first call of every script that writes times. It returns the server's clock.
local function begin()
  checkTypes()
  local now = serverTime()
  local clock, layout = unpack(redis.call('HMGET', STAT, 'clock', 'layout'))
  checkLayout(layout)
  followClock(now, number(clock) or 0)
  redis.call('HSET', STAT, 'clock', int(now))
  return now
end

-- backoff returns the delay before redelivery number `count`: it doubles up to max, less a random
-- part of up to a half. random is from 0 to 1.
local function backoff(count, base, max, random)
  return math.min(base * 2 ^ math.min(count - 1, 40), max) * (1 - random / 2)
end

-- read runs a command that reads a key, and returns nil for a key of another type. Every other
-- error ends the script: a user without a right must not make a batch look broken.
local function read(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply.err, 0) end
end

-- isID reports whether a text is an id that the queue makes: a UUID of version 7. A ledger refuses
-- any other id or root, in every call that has it.
local ID = '^%x%x%x%x%x%x%x%x%-%x%x%x%x%-7%x%x%x%-[89ab]%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$'
local function isID(text) return text and string.find(text, ID) ~= nil and not string.find(text, '%u') end

-- No batch has more records than this.
local MAX_BATCH = 100000

-- sizeOf returns the number of records of a batch that a text holds, or nil.
local function sizeOf(text)
  local n = natural(text)
  return n and n > 0 and n <= MAX_BATCH and n or nil
end

-- placeOf returns the position in a root batch that a text holds, or nil.
local function placeOf(text)
  local n = natural(text)
  return n and n < MAX_BATCH and n or nil
end

-- The fields of a meta hash that hold numbers: those that it must have, and those that count from
-- 0.
local NUMBER_FIELDS, COUNTER_FIELDS = {'att', 'sealed', 'first'}, {'fails', 'crashes', 'past', 'buried'}

-- faultyField returns the first field of a meta hash that is missing or holds nothing that the
-- queue writes, or nil.
local function faultyField(meta, now)
  if not isID(meta.root) then return 'root' end
  if not sizeOf(meta.n) then return 'n' end
  if not placeOf(meta.off) then return 'off' end
  for _, field in ipairs(NUMBER_FIELDS) do
    if not natural(meta[field]) then return field end
  end
  for _, field in ipairs({'sealed', 'first'}) do
    if not isTime(meta[field], now) then return field end
  end
  for _, field in ipairs(COUNTER_FIELDS) do
    if meta[field] and not natural(meta[field]) then return field end
  end
end

-- isScore reports whether a score of a set is a time that a script may have written there. A batch
-- with a later one would stay where it is for years.
local function isScore(set, score, now)
  return isTime(score, now) and (not AHEAD_MS[set] or tonumber(score) <= now + AHEAD_MS[set])
end

-- readMeta returns the meta hash of a batch as a table and as a flat list, or nil if the batch
-- cannot be delivered: its id is none, the hash is gone, a field of it holds nothing that the queue
-- writes, or the list does not have the records that it should.
local function readMeta(id, now)
  if not isID(id) then return nil end
  local flat = read('HGETALL', metaOf(id))
  if not flat or #flat == 0 then return nil end
  local meta = fieldsOf(flat)
  if faultyField(meta, now) or read('LLEN', listOf(id)) ~= number(meta.n) then return nil end
  return meta, flat
end

-- sumReserved returns how many records the reservations of bounded pushes hold. A member is
-- "id:records".
local function sumReserved()
  local sum = 0
  for _, member in ipairs(redis.call('ZRANGE', PUSHING, 0, -1)) do
    sum = sum + (number(string.match(member, ':(%d+)$')) or 0)
  end
  return sum
end

-- readDepth returns what the bound of a push compares: the records that are not settled, the
-- reserved ones, and the layout of the data. The fourth value is the counter that holds no number,
-- with its text.
local function readDepth()
  local FIELDS = {'inflight', 'delayed', 'reserved'}
  local values = redis.call('HMGET', STAT, 'inflight', 'delayed', 'reserved', 'layout')
  for i, field in ipairs(FIELDS) do
    local n = number(values[i] or '0')
    if not n then return 0, 0, values[4], field .. ' = ' .. string.sub(values[i], 1, 64) end
    values[i] = n
  end
  return redis.call('LLEN', READY) + values[1] + values[2], values[3], values[4]
end

-- setAside takes a batch that cannot be delivered out of circulation, for Audit and Repair. A set
-- of a wrong type ends the script before it writes.
local function setAside(id, now)
  needs('HINCRBY', 'HMGET', 'HSET', 'TYPE', 'ZADD', 'ZREM', 'ZSCORE')
  for _, set in ipairs({LEASES, REDO, HANDED, BROKEN}) do redis.call('ZSCORE', set, id) end
  for _, set in ipairs({LEASES, REDO, HANDED}) do redis.call('ZREM', set, id) end
  redis.call('ZADD', BROKEN, int(now), id)
  if redis.call('TYPE', metaOf(id)).ok ~= 'hash' then return end
  local state, n = unpack(redis.call('HMGET', metaOf(id), 'st', 'n'))
  if state == 'H' then count('handed', -(sizeOf(n) or 0)) end
  redis.call('HSET', metaOf(id), 'st', 'B')
end

-- isLeft reports whether anything is left of a batch: a key, or an entry in a set.
local function isLeft(id)
  if redis.call('EXISTS', listOf(id), metaOf(id)) > 0 then return true end
  for _, set in ipairs({LEASES, REDO, HANDED, BROKEN, OPEN}) do
    if redis.call('ZSCORE', set, id) then return true end
  end
  return false
end

-- matchUndo returns which of the undos in ARGV[from] to ARGV[to] find what they expect. Each is a
-- key, an offset, the bytes that must be there and those that replace them. It ends the script if
-- the user may not write one of them.
local function matchUndo(from, to)
  local matches = {}
  for i = from, to, 4 do
    local key, offset, old = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    if redis.call('GETRANGE', key, offset, offset + #old - 1) == old then
      needsKey(key, 'SETRANGE', key, offset, ARGV[i + 3])
      matches[#matches + 1] = i
    end
  end
  return matches
end

-- applyUndo writes the undos that matchUndo returned.
local function applyUndo(matches)
  for _, i in ipairs(matches) do redis.call('SETRANGE', ARGV[i], ARGV[i + 1], ARGV[i + 3]) end
end

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

-- fieldsOf makes a table of the reply of HGETALL.
local function fieldsOf(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

-- followClock moves all times of the past and future when the server's clock was set back, so that
-- each lease and delay keeps its own length. One command scales a whole set: the factor is so close
-- to 1 that a length changes by a few millionths.
local function followClock(now, seen)
  if seen - now <= CLOCK_TOLERANCE_MS then return end
  local factor = string.format('%.17g', now / seen)
  for _, set in ipairs({LEASES, REDO, HANDED, OPEN}) do
    if redis.call('ZCARD', set) > 0 then
      redis.call('ZUNIONSTORE', set, 1, set, 'WEIGHTS', factor)
    end
  end
  redis.call('HINCRBY', STAT, 'clock_steps', 1)
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

-- begin is the first call of every script that writes times. It returns the server's clock.
local function begin()
  checkTypes()
  local now = serverTime()
  followClock(now, tonumber(redis.call('HGET', STAT, 'clock') or 0))
  redis.call('HSET', STAT, 'clock', int(now))
  return now
end

-- backoff returns the delay before redelivery number `count`: it doubles up to max, less a random
-- part of up to a half. random is from 0 to 1.
local function backoff(count, base, max, random)
  return math.min(base * 2 ^ math.min(count - 1, 40), max) * (1 - random / 2)
end

-- pcallNumber runs a command that returns a number, and returns nil if it fails.
local function pcallNumber(...)
  local reply = redis.pcall(...)
  return type(reply) == 'number' and reply or nil
end

-- readMeta returns the meta hash of a batch as a table and as a flat list, or nil if the batch
-- cannot be delivered: the hash is gone, or the list does not have the records that it should.
local function readMeta(id)
  local flat = redis.pcall('HGETALL', metaOf(id))
  if flat.err or #flat == 0 then return nil end
  local meta = fieldsOf(flat)
  if not meta.n or pcallNumber('LLEN', listOf(id)) ~= tonumber(meta.n) then return nil end
  return meta, flat
end

-- count adds to a counter of the books. A negative zero is not a number to Redis 7.0.
local function count(field, n)
  if n ~= 0 then redis.call('HINCRBY', STAT, field, int(n)) end
end

-- setAside takes a batch that cannot be delivered out of circulation, for Audit and Repair. A set
-- of a wrong type ends the script before it writes.
local function setAside(id, now)
  for _, set in ipairs({LEASES, REDO, HANDED, BROKEN}) do redis.call('ZSCORE', set, id) end
  for _, set in ipairs({LEASES, REDO, HANDED}) do redis.call('ZREM', set, id) end
  redis.call('ZADD', BROKEN, int(now), id)
  if redis.call('TYPE', metaOf(id)).ok ~= 'hash' then return end
  local state, n = unpack(redis.call('HMGET', metaOf(id), 'st', 'n'))
  if state == 'H' then count('handed', -(tonumber(n) or 0)) end
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
-- key, an offset, the bytes that must be there and those that replace them.
local function matchUndo(from, to)
  local matches = {}
  for i = from, to, 4 do
    local key, offset, old = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    if redis.call('GETRANGE', key, offset, offset + #old - 1) == old then
      matches[#matches + 1] = i
    end
  end
  return matches
end

-- applyUndo writes the undos that matchUndo returned.
local function applyUndo(matches)
  for _, i in ipairs(matches) do redis.call('SETRANGE', ARGV[i], ARGV[i + 1], ARGV[i + 3]) end
end

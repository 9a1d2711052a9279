-- Every script of this package begins with this.
-- KEYS 1 meta, 2 a key that never exists (see internal/redisx), 3 idle, 4 due, 5 leases,
--      6 dead, 7 expiry
-- ARGV 1 prefix of the keys, 2 layout version, 3 seed, 4 window size, 5 retention, 6 jitter
--      (ms); the script's own follow
--
-- All other keys are built from the prefix, so they are in the same slot.
local META, IDLE, DUE, LEASES, DEAD, EXPIRY = KEYS[1], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local PREFIX, LAYOUT, SEED = ARGV[1], ARGV[2], ARGV[3]
local RETENTION, JITTER = tonumber(ARGV[5]), tonumber(ARGV[6])

-- A set of events is one sorted set until it has more than SPLIT_ABOVE members, and from then on
-- 64 buckets. Redis frees an expired key in one go: 5 million events in one key would
-- hold it for seconds.
local BUCKETS, SPLIT_ABOVE = 64, 2048
-- The buckets of one set expire SPREAD ms after each other, and sets of the same age apart by
-- JITTER.
local SPREAD, SLACK = 100, 1000
local INFINITY = math.huge

local function int(n) return string.format('%.0f', n) end -- tostring would round to 14 digits

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local meta = redis.call('HMGET', META, 'layout', 'seed', 'size', 'clock', 'offset', 'latesplit')
if meta[1] and meta[1] ~= LAYOUT then return redis.error_reply('HEADRACE layout ' .. meta[1]) end
if meta[2] and meta[2] ~= SEED then return redis.error_reply('HEADRACE seed ' .. meta[2]) end
local size = number(meta[3])
if not size or size < 0 then size = tonumber(ARGV[4]) end
local lateSplit = meta[6]

-- Durations are measured by a clock of our own. It is the server's, and goes on where it was when
-- that is set back.
local offset, before = number(meta[5]) or 0, number(meta[4]) or 0
if offset < 0 or offset > MAX_AHEAD_MS then offset = 0 end
if now < before and isTime(before, now) then offset = offset + before - now end
local clock = now + offset

-- tick is called by each script that writes, before its other writes. A key of another type stops
-- the script here, before anything is written.
local function tick()
  for _, key in ipairs({IDLE, DUE, LEASES, DEAD, EXPIRY}) do redis.call('ZCARD', key) end
  redis.call('HSET', META, 'layout', LAYOUT, 'seed', SEED, 'size', int(size), 'clock', int(now), 'offset', int(offset))
end

-- What all windows share lives twice as long as they do, and META, which has the seed of the
-- buckets, at least as long as the sliding sets: `slide` ms. Called at the end of a script that
-- writes.
local function keepShared(slide)
  for _, key in ipairs({IDLE, DUE, LEASES, DEAD, EXPIRY}) do redis.call('PEXPIRE', key, int(2 * RETENTION)) end
  local ms = math.max(2 * RETENTION, slide or 0)
  if redis.call('PTTL', META) < ms then redis.call('PEXPIRE', META, int(ms)) end
end

local function infoKey(window) return PREFIX .. 'info:' .. window end
local function marksKey(key) return PREFIX .. 'marks:' .. key end
local function openKey(key) return PREFIX .. 'open:' .. key end

-- setKey returns the key of a set of events: kind is events, slide or late; bucket 0 is the set
-- before it was split. The sets of windows have no name and are never split.
local WINDOWS = {due = DUE, leased = LEASES, dead = DEAD}
local function setKey(kind, name, bucket)
  if WINDOWS[kind] then return WINDOWS[kind] end
  if bucket > 0 then kind = kind .. '.' .. bucket end
  return PREFIX .. kind .. ':' .. name
end

local function isSplit(kind, name)
  if kind == 'events' then return redis.call('HGET', infoKey(name), 'split') end
  if kind == 'slide' then return redis.call('HGET', marksKey(name), 'split') end
  return kind == 'late' and lateSplit
end

-- keepSet sets when a whole set expires.
local function keepSet(kind, name, split, ms)
  for bucket = 0, split and BUCKETS or 0 do
    redis.call('PEXPIRE', setKey(kind, name, bucket), int(ms + SLACK + JITTER + bucket * SPREAD))
  end
end

-- isWrongType reports whether a reply is the error about a key of another type.
local function isWrongType(reply) return type(reply) == 'table' and reply.err and string.find(reply.err, 'WRONGTYPE', 1, true) end

-- trim removes what is not younger than upTo: a bounded part of it, in a few buckets chosen at
-- random.
local function trim(kind, name, split, upTo)
  local function trimOne(key, most)
    local old = redis.pcall('ZCOUNT', key, '-inf', int(upTo))
    if type(old) == 'table' then
      if not isWrongType(old) then error(old.err, 0) end
    elseif old > 0 then
      redis.call('ZREMRANGEBYRANK', key, 0, math.min(old, most) - 1)
    end
  end
  trimOne(setKey(kind, name, 0), 2 * SPLIT_ABOVE)
  if split then
    for i = 0, 7 do trimOne(setKey(kind, name, (JITTER + i) % BUCKETS + 1), 500) end
  end
end

-- The books: how many events are in windows of each state. move is applied at once.
-- A counter that holds no number stays as it is until Repair recounts it.
local function book(state, n)
  if n == 0 then return end
  local reply = redis.pcall('HINCRBY', META, state, int(n))
  if type(reply) == 'table' and number(redis.call('HGET', META, state) or '0') then error(reply.err, 0) end
end
local function move(from, to, n)
  book(from, -n)
  book(to, n)
end

-- A window is named "<start> <size> <key>". open:<key> holds the first two. parts returns them, and
-- nil for a name that is none.
local function parts(window)
  local start, length, key = string.match(window, '^(%d+) (%d+) (.*)$')
  if not number(start) or (number(length) or 0) < 1 then return nil end
  return start, length, key
end

-- openParts does the same for a member of open:<key>.
local function openParts(name)
  local start, length = parts(name .. ' ')
  return start, length
end

-- readInfo returns fields of a window's record, and nothing where it is of another type.
local function readInfo(window, ...)
  local info = redis.pcall('HMGET', infoKey(window), ...)
  return info.err and {} or info
end

-- countEvents counts the members of a window's sets. One of another type has none.
local function countEvents(window, split)
  local n = 0
  for bucket = 0, split and BUCKETS or 0 do
    local members = redis.pcall('ZCARD', setKey('events', window, bucket))
    if type(members) == 'number' then n = n + members end
  end
  return n
end

-- eventsOf returns how many events a window has: what its record states, or the members of its sets
-- where that is no number.
local function eventsOf(window, text, split)
  local n = number(text or '0')
  if n then return n end
  n = countEvents(window, split)
  redis.call('HSET', infoKey(window), 'n', int(n))
  return n
end

-- increase adds one to a number of a window's record, and returns it. `first` takes the place of a
-- text that is no number.
local function increase(window, field, first)
  if number(redis.call('HGET', infoKey(window), field) or '0') then return redis.call('HINCRBY', infoKey(window), field, 1) end
  redis.call('HSET', infoKey(window), field, int(first))
  return first
end

-- keepWindow prolongs the life of a window by its retention.
local function keepWindow(window, split, ms)
  keepSet('events', window, split, ms)
  redis.call('PEXPIRE', infoKey(window), int(4 * RETENTION))
  redis.call('ZADD', EXPIRY, int(clock + ms), window)
end

-- close makes an open window due. Its events do not change from now on.
local function close(start, length, key, reason)
  local window = start .. ' ' .. length .. ' ' .. key
  local info = readInfo(window, 'n', 'split')
  redis.call('ZREM', openKey(key), start .. ' ' .. length)
  if not info[1] then -- its record was deleted: a closer reports what is left of it
    redis.call('ZADD', DUE, int(clock), window)
    return
  end
  local n = eventsOf(window, info[1], info[2])
  redis.call('ZADD', DUE, int(clock), window)
  redis.call('HSET', infoKey(window), 'state', 'due', 'reason', reason)
  redis.call('PEXPIRE', infoKey(window), int(4 * RETENTION))
  move('open', 'due', n)
end

-- removeEvents deletes the events of a window. The server frees them in the background.
local function removeEvents(window, split)
  local keys = {}
  for bucket = 0, split and BUCKETS or 0 do keys[#keys + 1] = setKey('events', window, bucket) end
  redis.call('UNLINK', unpack(keys))
end

-- bury moves a window into the dead-letter list, for as long as a window that waits for a closer
-- lives.
local function bury(window, state, n, split, failure)
  redis.call('ZREM', DUE, window)
  redis.call('ZREM', LEASES, window)
  redis.call('ZADD', DEAD, int(clock), window)
  redis.call('HSET', infoKey(window), 'state', 'dead', 'failure', failure)
  keepWindow(window, split, RETENTION)
  move(state, 'dead', n)
end

-- delay returns how long a window waits after so many failures.
local function delay(failures, first, most)
  if failures < 1 then return 0 end
  return math.min(most, first * 2 ^ math.min(failures - 1, 40))
end

-- The books: how many events are in windows of each state. move is applied at once.
-- A counter that holds no number stays as it is until Repair recounts it.
local function book(state, n)
  if n == 0 then return end
  local reply = redis.pcall('HINCRBY', META, state, int(n))
  if type(reply) == 'table' and number(call('HGET', META, state) or '0') then error(reply.err, 0) end
end
local function move(from, to, n)
  book(from, -n)
  book(to, n)
end

-- A window is named "<start> <size> <key>". open:<key> holds the first two. parts returns them, or
-- nil for an invalid name.
local function parts(window)
  local start, length, key = string.match(window, '^(%d+) (%d+) (.*)$')
  if not number(start) or (number(length) or 0) < 1 then return nil end
  return start, length, key
end

-- isScore reports whether a score is a time that a script may have written; one that is later would
-- keep its window where it is for years.
local function isScore(score)
  return isTime(score, clock) and tonumber(score) <= clock + LONGEST_MS
end

-- openParts does the same for a member of open:<key>.
local function openParts(name)
  local start, length = parts(name .. ' ')
  return start, length
end

-- readInfo returns fields of a window's record, and nothing where it is of another type.
local function readInfo(window, ...)
  return callOr({}, 'HMGET', infoKey(window), ...)
end

-- countEvents counts the members of a window's sets. One of another type has none.
local function countEvents(window, split)
  local n = 0
  for bucket = 0, split and BUCKETS or 0 do
    n = n + callOr(0, 'ZCARD', setKey('events', window, bucket))
  end
  return n
end

-- eventsOf returns how many events a window has: what its record states, or the members of its sets
-- where that is no number of events.
local function eventsOf(window, text, split)
  local n = natural(text or '0')
  if n then return n end
  n = countEvents(window, split)
  call('HSET', infoKey(window), 'n', int(n))
  return n
end

-- increase adds one to a number of a window's record, and returns it. `first` takes the place of a
-- text that is no number.
local function increase(window, field, first)
  if number(call('HGET', infoKey(window), field) or '0') then return call('HINCRBY', infoKey(window), field, 1) end
  call('HSET', infoKey(window), field, int(first))
  return first
end

-- keepWindow prolongs the life of a window by its retention.
local function keepWindow(window, split, ms)
  keepSet('events', window, split, ms)
  call('PEXPIRE', infoKey(window), int(4 * RETENTION))
  putName('expiry', '', int(clock + ms), window)
end

-- close makes an open window due. Its events do not change from now on.
local function close(start, length, key, reason)
  local window = start .. ' ' .. length .. ' ' .. key
  local info = readInfo(window, 'n', 'split')
  removeName('open', key, start .. ' ' .. length)
  if not info[1] then -- its record was deleted: a closer reports what is left of it
    putName('due', '', int(clock), window)
    return
  end
  local n = eventsOf(window, info[1], info[2])
  putName('due', '', int(clock), window)
  call('HSET', infoKey(window), 'state', 'due', 'reason', reason)
  call('PEXPIRE', infoKey(window), int(4 * RETENTION))
  move('open', 'due', n)
end

-- removeEvents deletes the events of a window. The server frees them in the background.
local function removeEvents(window, split)
  local keys = {}
  for bucket = 0, split and BUCKETS or 0 do keys[#keys + 1] = setKey('events', window, bucket) end
  call('UNLINK', unpack(keys))
end

-- bury moves a window into the dead-letter list, for as long as a window that waits for a closer
-- lives.
local function bury(window, state, n, split, failure)
  removeName('due', '', window)
  removeName('leased', '', window)
  putName('dead', '', int(clock), window)
  call('HSET', infoKey(window), 'state', 'dead', 'failure', failure)
  keepWindow(window, split, RETENTION)
  move(state, 'dead', n)
end

-- delay returns how long a window waits after a number of failures.
local function delay(failures, first, most)
  if failures < 1 then return 0 end
  return math.min(most, first * 2 ^ math.min(failures - 1, 40))
end

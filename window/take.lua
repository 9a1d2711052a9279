-- Closes the windows of idle keys and leases windows that are due. What must expire is removed
-- before.
-- ARGV 7 how many at most, 8 lease, 9 idle, 10 backoff, 11 longest backoff (ms), 12 failures
--      until a window is buried
-- Reply {windows that expired before any closer came, {window, attempt, reason, events} for
--      each that is leased}
local STATES = {open = true, due = true, leased = true, dead = true}
local MAX_EXPIRED, MAX_IDLE_KEYS, MAX_IDLE_WINDOWS = 50, 20, 100
local most, lease, idle = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local backoff, maxBackoff, maxFailures = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])

-- removeExpired forgets a window at the end of its retention, and one that is done at the end of
-- its.
local function removeExpired(window, lost)
  local info = readInfo(window, 'state', 'n', 'split')
  local start, length, key = parts(window)
  local n = eventsOf(window, info[2], info[3])
  redis.call('ZREM', EXPIRY, window)
  if start then redis.pcall('ZREM', openKey(key), start .. ' ' .. length) end
  for _, set in ipairs({DUE, LEASES, DEAD}) do redis.call('ZREM', set, window) end
  removeEvents(window, info[3])
  redis.call('UNLINK', infoKey(window))
  if info[1] == 'done' then return end
  lost[#lost + 1] = window
  if STATES[info[1]] then move(info[1], 'expired', n) end
end

-- closeIdle closes the windows of a key that are over by the server's clock. Those that run are
-- looked at when they end.
local function closeIdle(key, room)
  local closed, names = 0, redis.pcall('ZRANGEBYSCORE', openKey(key), '-inf', int(now), 'LIMIT', 0, room)
  if names.err then -- a key of another type: Audit names it
    redis.call('ZREM', IDLE, key)
    return 0
  end
  for _, name in ipairs(names) do
    local start, length = openParts(name)
    closed = closed + 1
    if start then
      close(start, length, key, 'idle')
      local stop, floor = start + length, redis.pcall('HGET', marksKey(key), 'floor')
      if type(floor) ~= 'table' and not (number(floor) and number(floor) >= stop) then redis.call('HSET', marksKey(key), 'floor', int(stop)) end
    else
      redis.call('ZREM', openKey(key), name)
    end
  end
  if closed > 0 and redis.call('PTTL', marksKey(key)) < 2 * RETENTION then redis.call('PEXPIRE', marksKey(key), int(2 * RETENTION)) end
  local next = redis.call('ZRANGE', openKey(key), 0, 0, 'WITHSCORES')
  if not next[1] then redis.call('ZREM', IDLE, key)
  elseif timeOf(next[2], now) > now then redis.call('ZADD', IDLE, int(clock + timeOf(next[2], now) - now - idle), key) end
  return closed
end

-- forget removes a window whose record was deleted by hand.
local function forget(window, lost)
  for _, set in ipairs({DUE, LEASES, EXPIRY}) do redis.call('ZREM', set, window) end
  redis.call('UNLINK', infoKey(window))
  lost[#lost + 1] = window
end

-- endLease ends a lease that has run out. The closer may have died of the window.
local function endLease(window, lost)
  local info = readInfo(window, 'attempt', 'n', 'split')
  if not info[2] or not parts(window) then return forget(window, lost) end
  redis.call('ZREM', LEASES, window)
  local n = eventsOf(window, info[2], info[3])
  local failures = increase(window, 'failures', 1)
  local failure = 'the lease of attempt ' .. (info[1] or '?') .. ' expired'
  if failures >= maxFailures then return bury(window, 'leased', n, info[3], failure) end
  redis.call('ZADD', DUE, int(clock + delay(failures - 1, backoff, maxBackoff)), window)
  redis.call('HSET', infoKey(window), 'state', 'due', 'failure', failure)
  move('leased', 'due', n)
end

tick()
local lost, leased = {}, {}
for _, window in ipairs(redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', int(clock), 'LIMIT', 0, MAX_EXPIRED)) do removeExpired(window, lost) end
trim('late', '', lateSplit, clock - RETENTION)
local room = MAX_IDLE_WINDOWS
for _, key in ipairs(redis.call('ZRANGEBYSCORE', IDLE, '-inf', int(clock - idle), 'LIMIT', 0, MAX_IDLE_KEYS)) do
  if room > 0 then room = room - closeIdle(key, room) end
end
for _, window in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', int(clock), 'LIMIT', 0, most)) do endLease(window, lost) end
for _, window in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', int(clock), 'LIMIT', 0, most)) do
  local info = readInfo(window, 'n', 'reason', 'split')
  if not info[1] or not parts(window) then
    forget(window, lost)
  else
    local n = eventsOf(window, info[1], info[3])
    redis.call('ZREM', DUE, window)
    -- A closer may still know an attempt that was overwritten: the next one is higher than all.
    local attempt = increase(window, 'attempt', clock)
    redis.call('HSET', infoKey(window), 'state', 'leased')
    redis.call('ZADD', LEASES, int(clock + lease), window)
    keepWindow(window, info[3], RETENTION)
    move('due', 'leased', n)
    leased[#leased + 1] = {window, attempt, info[2] or 'unknown', n}
  end
end
keepShared()
return {lost, leased}

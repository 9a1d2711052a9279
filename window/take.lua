-- Closes the windows of idle keys and leases windows that are due. What must expire is removed
-- before.
-- ARGV 7 how many at most, 8 lease, 9 idle, 10 backoff, 11 longest backoff (ms), 12 failures
--      until a window is buried
-- Reply {windows that expired before any closer came, {window, attempt, reason, events} for
--      each that is leased, 1 if there may be more idle keys}
local STATES = {open = true, due = true, leased = true, dead = true}
local MAX_EXPIRED, MAX_IDLE_KEYS, MAX_IDLE_WINDOWS = 50, 20, 100
local most, lease, idle = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local backoff, maxBackoff, maxFailures = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])

-- removeExpired forgets a window whose retention has ended, or one that is done and need no longer
-- be remembered.
local function removeExpired(window, lost)
  local info = readInfo(window, 'state', 'n', 'split')
  local start, length, key = parts(window)
  local n = eventsOf(window, info[2], info[3])
  removeName('expiry', '', window)
  if start then removeName('open', key, start .. ' ' .. length) end
  for _, kind in ipairs({'due', 'leased', 'dead'}) do removeName(kind, '', window) end
  removeEvents(window, info[3])
  call('UNLINK', infoKey(window))
  if info[1] == 'done' then return end
  lost[#lost + 1] = window
  if STATES[info[1]] then move(info[1], 'expired', n) end
end

-- closeIdle closes the windows of a key that are over by the server's clock. Those that run are
-- looked at when they end.
local function closeIdle(key, room)
  if not callOr(nil, 'ZCARD', openKey(key)) then -- a key of another type: Audit names it
    removeName('idle', '', key)
    return 0
  end
  local closed = 0
  for _, name in ipairs(firstOf('open', key, now, room)) do
    local start, length = openParts(name)
    closed = closed + 1
    if start then
      close(start, length, key, 'idle')
      local stop, floor = start + length, callOr(nil, 'HGET', marksKey(key), 'floor')
      if floor ~= nil and not (number(floor) and number(floor) >= stop) then call('HSET', marksKey(key), 'floor', int(stop)) end
    else
      removeName('open', key, name)
    end
  end
  if closed > 0 and call('PTTL', marksKey(key)) < 2 * RETENTION then call('PEXPIRE', marksKey(key), int(2 * RETENTION)) end
  local stop = firstScore('open', key)
  if not stop then removeName('idle', '', key)
  elseif timeOf(stop, now) > now then putName('idle', '', int(clock + timeOf(stop, now) - now - idle), key) end
  return closed
end

-- forget removes a window whose record was deleted by hand.
local function forget(window, lost)
  for _, kind in ipairs({'due', 'leased', 'expiry'}) do removeName(kind, '', window) end
  call('UNLINK', infoKey(window))
  lost[#lost + 1] = window
end

-- endLease ends a lease that has run out. The closer may have died of the window.
local function endLease(window, lost)
  local info = readInfo(window, 'attempt', 'n', 'split')
  if not info[2] or not parts(window) then return forget(window, lost) end
  removeName('leased', '', window)
  local n = eventsOf(window, info[2], info[3])
  local failures = increase(window, 'failures', 1)
  local failure = 'the lease of attempt ' .. (info[1] or '?') .. ' expired'
  if failures >= maxFailures then return bury(window, 'leased', n, info[3], failure) end
  putName('due', '', int(clock + delay(failures - 1, backoff, maxBackoff)), window)
  call('HSET', infoKey(window), 'state', 'due', 'failure', failure)
  move('leased', 'due', n)
end

tick()
local lost, leased = {}, {}
for _, window in ipairs(firstOf('expiry', '', clock, MAX_EXPIRED)) do removeExpired(window, lost) end
trim('late', '', lateSplit, clock - RETENTION)
local room = MAX_IDLE_WINDOWS
local idleKeys = firstOf('idle', '', clock - idle, MAX_IDLE_KEYS)
for _, key in ipairs(idleKeys) do
  if room > 0 then room = room - closeIdle(key, room) end
end
for _, window in ipairs(firstOf('leased', '', clock, most)) do endLease(window, lost) end
for _, window in ipairs(firstOf('due', '', clock, most)) do
  local info = readInfo(window, 'n', 'reason', 'split')
  if not info[1] or not parts(window) then
    forget(window, lost)
  else
    local n = eventsOf(window, info[1], info[3])
    removeName('due', '', window)
    -- A closer may still know an attempt that was overwritten: the next one is higher than all.
    local attempt = increase(window, 'attempt', clock)
    call('HSET', infoKey(window), 'state', 'leased')
    putName('leased', '', int(clock + lease), window)
    keepWindow(window, info[3], RETENTION)
    move('due', 'leased', n)
    leased[#leased + 1] = {window, attempt, info[2] or 'unknown', n}
  end
end
local empty = namesSplit
-- A key without windows may be left in idle: from its bucket it would come back with an old time.
for _, kind in ipairs(KINDS) do empty = empty and isEmpty(kind, '') end
if empty then
  call('HDEL', META, 'namessplit', 'kept')
  namesSplit = false
end
keepShared()
return {lost, leased, (#idleKeys == MAX_IDLE_KEYS or room <= 0) and 1 or 0}

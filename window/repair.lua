-- Mends windows whose keys disagree. ARGV 7…: windows. Reply for each what was done, '' for
-- nothing. The state in a window's info decides which set it belongs to. Where events are missing,
-- the window goes to the dead-letter list: it is for a person to decide whether what is left is
-- worth a result. A window without its info is given up.
local reply = {}
tick()
for i = 7, #ARGV do
  local window = ARGV[i]
  local info = readInfo(window, 'state', 'n', 'split', 'attempt', 'failures', 'kept')
  local state, split = info[1], info[3]
  local start, length, key = parts(window)
  local name, action = start .. ' ' .. length, ''
  local sets = {open = openKey(key), due = DUE, leased = LEASES, dead = DEAD}
  local function member(where) return where == 'open' and name or window end
  local n, there = 0, 0
  if state then
    n = eventsOf(window, info[2], split)
    for field, text in pairs({n = info[2], attempt = info[4], failures = info[5], kept = info[6]}) do
      if text and not number(text) then action = 'corrected ' .. field end
    end
    if info[4] and not number(info[4]) then redis.call('HSET', infoKey(window), 'attempt', int(clock)) end
    for _, field in ipairs({'failures', 'kept'}) do
      if not number(redis.call('HGET', infoKey(window), field) or '0') then redis.call('HDEL', infoKey(window), field) end
    end
    for where, set in pairs({due = DUE, leased = LEASES, expiry = EXPIRY}) do
      local score = redis.call('ZSCORE', set, window)
      if score and not isTime(score, clock) then
        redis.call('ZADD', set, int(where == 'expiry' and clock + RETENTION or clock), window)
        action = 'corrected its time in ' .. where
      end
    end
  end
  there = countEvents(window, split)
  if not state then
    for where, set in pairs(sets) do redis.pcall('ZREM', set, member(where)) end
    removeEvents(window, true)
    redis.call('ZREM', EXPIRY, window)
    action = 'given up: ' .. there .. ' events without a record of the window'
  else
    for where, set in pairs(sets) do
      if where ~= state and redis.pcall('ZREM', set, member(where)) == 1 then action = 'removed from ' .. where end
    end
    if sets[state] and not redis.call('ZSCORE', sets[state], member(state)) then
      redis.call('ZADD', sets[state], state == 'open' and int(start + length) or int(clock), member(state))
      if state == 'open' then
        redis.call('ZADD', IDLE, 'NX', int(clock), key)
        redis.call('PEXPIRE', openKey(key), int(2 * RETENTION))
      end
      action = 'put back to ' .. state
    end
    if not redis.call('ZSCORE', EXPIRY, window) then
      keepWindow(window, split, RETENTION)
      action = action == '' and 'put back to expiry' or action
    end
    if there > n and sets[state] then
      redis.call('HSET', infoKey(window), 'n', int(there))
      book(state, there - n)
      book('added', there - n)
      action = 'counted: ' .. there .. ' events, not ' .. n
    elseif there < n and sets[state] then
      local failure = (n - there) .. ' of ' .. n .. ' events are missing'
      redis.call('HSET', infoKey(window), 'n', int(there))
      move(state, 'expired', n - there)
      if state ~= 'dead' then
        redis.call('ZREM', sets[state], member(state))
        bury(window, state, there, split, failure)
      end
      action = 'buried: ' .. failure
    end
  end
  reply[#reply + 1] = action
end
keepShared()
return reply

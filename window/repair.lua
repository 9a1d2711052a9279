-- Mends windows whose keys disagree. ARGV 7…: windows. Reply for each what was done, '' for
-- nothing. The state in a window's info decides which set it belongs to. Where events are missing,
-- the window goes to the dead-letter list: it is for a person to decide whether what is left is
-- worth a result. So does a window whose state was overwritten. A window without its info is given
-- up.
local STATES = {open = true, due = true, leased = true, dead = true, done = true}
local reply = {}
tick()
for i = 7, #ARGV do
  local window = ARGV[i]
  local info = readInfo(window, 'state', 'n', 'split', 'attempt', 'failures', 'kept')
  local state, split = info[1], info[3]
  local overwritten = info[2] and not STATES[state] -- Repair books its events in its next pass
  if overwritten then
    call('HSET', infoKey(window), 'state', 'dead', 'failure', 'its state was overwritten: ' .. string.sub(state or '', 1, 64))
    state = 'dead'
  elseif not STATES[state] then
    state = nil
  end
  local start, length, key = parts(window)
  local name, action = start .. ' ' .. length, ''
  -- Where a window of each state is: the name of the set, and what it is called there.
  local places = {open = {key, name}, due = {'', window}, leased = {'', window}, dead = {'', window}}
  local n, there = 0, 0
  if state then
    n = eventsOf(window, info[2], split)
    for field, text in pairs({n = info[2], attempt = info[4], failures = info[5], kept = info[6]}) do
      if text and not natural(text) then action = 'corrected ' .. field end
    end
    if info[4] and not natural(info[4]) then call('HSET', infoKey(window), 'attempt', int(clock)) end
    for _, field in ipairs({'failures', 'kept'}) do
      if not natural(call('HGET', infoKey(window), field) or '0') then call('HDEL', infoKey(window), field) end
    end
    for where, kind in pairs({due = 'due', leases = 'leased', expiry = 'expiry'}) do
      local score = scoreOf(kind, '', window)
      if score and not isScore(score) then
        putName(kind, '', int(kind == 'expiry' and clock + RETENTION or clock), window)
        action = 'corrected its time in ' .. where
      end
    end
  end
  there = countEvents(window, split)
  if not state then
    for where, place in pairs(places) do removeName(where, place[1], place[2]) end
    removeEvents(window, true)
    call('UNLINK', infoKey(window))
    removeName('expiry', '', window)
    action = 'given up: ' .. there .. ' events without a record of the window'
  else
    local place = places[state]
    local stop = scoreOf('open', key, name)
    if stop and tonumber(stop) ~= start + length then
      putName('open', key, int(start + length), name)
      action = 'corrected its time in open'
    end
    for where, p in pairs(places) do
      if where ~= state and removeName(where, p[1], p[2]) == 1 then action = 'removed from ' .. where end
    end
    if place and not scoreOf(state, place[1], place[2]) then
      putName(state, place[1], state == 'open' and int(start + length) or int(clock), place[2])
      if state == 'open' then
        if not scoreOf('idle', '', key) then putName('idle', '', int(clock), key) end
        call('PEXPIRE', openKey(key), int(2 * RETENTION))
      end
      action = 'put back to ' .. state
    end
    if not scoreOf('expiry', '', window) then
      keepWindow(window, split, RETENTION)
      action = action == '' and 'put back to expiry' or action
    end
    if overwritten then
      call('HSET', infoKey(window), 'n', int(there))
      action = 'buried: its state was overwritten'
    elseif there ~= n and not place then -- it is done, and its events are booked
      call('HSET', infoKey(window), 'n', int(there))
      action = 'counted: ' .. there .. ' events, not ' .. n
    elseif there > n and place then
      call('HSET', infoKey(window), 'n', int(there))
      book(state, there - n)
      book('added', there - n)
      action = 'counted: ' .. there .. ' events, not ' .. n
    elseif there < n and place then
      local failure = (n - there) .. ' of ' .. n .. ' events are missing'
      call('HSET', infoKey(window), 'n', int(there))
      move(state, 'expired', n - there)
      if state ~= 'dead' then
        removeName(state, place[1], place[2])
        bury(window, state, there, split, failure)
      end
      action = 'buried: ' .. failure
    end
  end
  reply[#reply + 1] = action
end
keepShared()
return reply

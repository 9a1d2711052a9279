-- Ends or moves the lease of a closed window, if the caller still has it.
-- ARGV 7 done, extend or release, 8 window, 9 attempt, 10 ms (done: how long its events are
--      remembered, extend: the new lease from now, release: the delay), 11 failure, 12 backoff,
--      13 longest backoff (ms), 14 failures until a window is buried
-- Reply 1; 2: the window was buried; 0: the lease is lost
local op, window, attempt, ms = ARGV[7], ARGV[8], ARGV[9], tonumber(ARGV[10])
local failure, backoff, maxBackoff, maxFailures = ARGV[11], tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local info = readInfo(window, 'state', 'attempt', 'n', 'split')
if info[1] ~= 'leased' or info[2] ~= attempt or not scoreOf('leased', '', window) then return 0 end
local split = info[4]

tick()
local n = eventsOf(window, info[3], split)
if op == 'done' then
  removeName('leased', '', window)
  move('leased', 'done', n)
  if ms > 0 then
    call('HSET', infoKey(window), 'state', 'done')
    call('HDEL', infoKey(window), 'failure')
    keepWindow(window, split, ms)
  else
    removeEvents(window, split)
    call('UNLINK', infoKey(window))
    removeName('expiry', '', window)
  end
elseif op == 'extend' then
  putName('leased', '', int(clock + ms), window)
  keepWindow(window, split, RETENTION + ms)
else
  if failure ~= '' then
    local failures = increase(window, 'failures', 1)
    call('HSET', infoKey(window), 'failure', failure)
    if failures >= maxFailures then
      bury(window, 'leased', n, split, failure)
      keepShared()
      return 2
    end
    if ms == 0 then ms = delay(failures, backoff, maxBackoff) end
  end
  removeName('leased', '', window)
  putName('due', '', int(clock + ms), window)
  call('HSET', infoKey(window), 'state', 'due')
  keepWindow(window, split, RETENTION + ms)
  move('leased', 'due', n)
end
keepShared()
return 1

-- Takes windows out of the dead-letter list.
-- ARGV 7 requeue or discard, then windows. Reply how many of them were there.
local count = 0
tick()
for i = 8, #ARGV do
  local window = ARGV[i]
  local info = readInfo(window, 'state', 'n', 'split')
  if info[1] == 'dead' and removeName('dead', '', window) == 1 then
    local n = eventsOf(window, info[2], info[3])
    count = count + 1
    if ARGV[7] == 'requeue' then
      call('HSET', infoKey(window), 'state', 'due', 'failures', '0')
      putName('due', '', int(clock), window)
      keepWindow(window, info[3], RETENTION)
      move('dead', 'due', n)
    else
      removeEvents(window, info[3])
      call('UNLINK', infoKey(window))
      removeName('expiry', '', window)
      move('dead', 'discarded', n)
    end
  end
end
keepShared()
return count

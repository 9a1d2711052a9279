-- Describes windows. ARGV 7…: windows
-- Reply for each {state, events by the books, events that are there, attempt, reason, failures,
--      failure, a letter for each set that has it, E: it has expired and waits to be removed}
local reply = {}
for i = 7, #ARGV do
  local window = ARGV[i]
  local info = redis.call('HMGET', infoKey(window), 'state', 'n', 'attempt', 'reason', 'failures', 'failure', 'split')
  local there, sets = 0, ''
  for bucket = 0, info[7] and BUCKETS or 0 do there = there + redis.call('ZCARD', setKey('events', window, bucket)) end
  local start, length, key = parts(window)
  if redis.call('ZSCORE', openKey(key), start .. ' ' .. length) then sets = sets .. 'O' end
  if redis.call('ZSCORE', DUE, window) then sets = sets .. 'D' end
  if redis.call('ZSCORE', LEASES, window) then sets = sets .. 'L' end
  if redis.call('ZSCORE', DEAD, window) then sets = sets .. 'B' end
  local expiry = redis.call('ZSCORE', EXPIRY, window)
  if expiry then sets = sets .. (tonumber(expiry) <= clock and 'E' or 'X') end
  reply[#reply + 1] = {info[1] or '', tonumber(info[2] or '-1'), there, tonumber(info[3] or '0'), info[4] or '', tonumber(info[5] or '0'), info[6] or '', sets}
end
return reply

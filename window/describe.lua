-- Describes windows. ARGV 7…: windows
-- Reply for each {state, events by the books, events that are there, attempt, reason, failures,
--      failure, a letter for each set that has it, E: it has expired and waits to be removed, the
--      first field or score that holds no number, with its text}
checkShared()
local NUMBERS = {n = 2, attempt = 3, failures = 5, kept = 8}
local reply = {}
for i = 7, #ARGV do
  local window = ARGV[i]
  local info = readInfo(window, 'state', 'n', 'attempt', 'reason', 'failures', 'failure', 'split', 'kept')
  local there, sets, odd = countEvents(window, info[7]), '', ''
  for field, at in pairs(NUMBERS) do
    if info[at] and not natural(info[at]) then odd = field .. ' = ' .. string.sub(info[at], 1, 64) end
  end
  local scores = {}
  for _, kind in ipairs({'due', 'leased', 'dead', 'expiry'}) do scores[kind] = scoreOf(kind, '', window) end
  for name, score in pairs({due = scores.due, leases = scores.leased, expiry = scores.expiry}) do
    if score and not isScore(score) then odd = 'its score in ' .. name .. ' = ' .. score end
  end
  local start, length, key = parts(window)
  local stop = start and scoreOf('open', key, start .. ' ' .. length)
  if stop then sets = sets .. 'O' end
  if stop and tonumber(stop) ~= start + length then odd = 'its score in open = ' .. stop end
  if scores.due then sets = sets .. 'D' end
  if scores.leased then sets = sets .. 'L' end
  if scores.dead then sets = sets .. 'B' end
  if scores.expiry then sets = sets .. (timeOf(scores.expiry, clock) <= clock and 'E' or 'X') end
  reply[#reply + 1] = {info[1] or '', number(info[2]) or -1, there, number(info[3]) or 0, info[4] or '', number(info[5]) or 0,
    info[6] or '', sets, odd}
end
return reply

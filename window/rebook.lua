-- Corrects the books of events. Replies 1 if it changed any. ARGV 7 what:
--   'move':    8 state, 9 how many events that no window of the state has: they count as expired
--   'restore': 8 to 11 how many events are in windows that are open, due, leased and dead. The
--              counters that hold no number get these, and the others what the equation leaves.
--   'balance': a wrong number was written by hand. What is missing has expired, and what is too
--              much was added.
tick()

local function restore()
  local COUNTED, ENDED = {'open', 'due', 'leased', 'dead'}, {'done', 'discarded', 'expired'}
  local function read(state) return call('HGET', META, state) or '0' end
  local rest = number(read('added'))
  for i, state in ipairs(COUNTED) do
    if not number(read(state)) then call('HSET', META, state, ARGV[7 + i]) end
    rest = rest and rest - number(read(state))
  end
  for _, state in ipairs(ENDED) do rest = rest and rest - (number(read(state)) or 0) end
  for _, state in ipairs(ENDED) do
    if not number(read(state)) then
      call('HSET', META, state, int(math.max(rest or 0, 0)))
      rest = 0 -- of several, the first one gets it
    end
  end
  if not number(read('added')) then
    local sum = 0
    for _, states in ipairs({COUNTED, ENDED}) do
      for _, state in ipairs(states) do sum = sum + number(read(state)) end
    end
    call('HSET', META, 'added', int(sum))
  end
end

local function balance()
  local function read(state) return number(call('HGET', META, state) or '0') end
  local added, expired, sum = read('added'), read('expired'), 0
  for _, state in ipairs({'open', 'due', 'leased', 'dead', 'done', 'discarded'}) do sum = sum + (read(state) or 0) end
  if not added or not expired or added == sum + expired and expired >= 0 then return 0 end
  expired = math.max(0, added - sum)
  call('HSET', META, 'expired', int(expired), 'added', int(sum + expired))
  return 1
end

local done = 1
if ARGV[7] == 'move' then move(ARGV[8], 'expired', tonumber(ARGV[9])) elseif ARGV[7] == 'balance' then done = balance() else restore() end
keepShared()
return done

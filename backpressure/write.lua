-- Every script that writes goes on with this.

needs('EXISTS', 'HSET', 'HGET', 'PEXPIRE', 'ZADD', 'ZCARD', 'ZRANGE', 'ZRANGEBYSCORE', 'ZREM', 'ZSCORE')

-- A server at maxmemory refuses the first write of a script if it needs memory, and no write after
-- one that needs none. So this first write tells whether it is full, and a script that makes room
-- can do its work all the same.
local function tick(run) return run('HSET', STATE, 'layout', ARGV[1], 'clock', int(now), 'offset', int(offset)) end
local first = tick(redis.pcall)
if type(first) == 'table' and first.err then
  if not string.find(first.err, 'OOM', 1, true) then return first end
  full = true
  call('ZREM', HELD, '')
  tick(redis.call)
end

-- The keys expire a day after their last use. That is prolonged every hour, and a key that is made
-- gets it at once.
local DAY, HOUR = 86400000, 3600000
local function keep(key) call('PEXPIRE', key, DAY) end
if not kept or clock - kept > HOUR then
  call('HSET', STATE, 'kept', int(clock))
  for _, key in ipairs({STATE, HELD, QUEUE, WAITERS}) do keep(key) end
end

local granted = {} -- ids of waiters

local function hold(member, n, b, ms)
  call('ZADD', HELD, int(clock + ms), member)
  if producers == 0 then keep(HELD) end
  heldRecords, heldBytes, producers = heldRecords + n, heldBytes + b, producers + 1
end

-- drop ends a reservation and returns whether it was there.
local function drop(member)
  if call('ZREM', HELD, member) == 0 then return false end
  local _, n, b = parse(member)
  heldRecords, heldBytes, producers = heldRecords - n, heldBytes - b, producers - 1
  return true
end

-- enqueue gives a producer the last place in the queue.
local function enqueue(member)
  local ticket = number(call('HGET', STATE, 'ticket') or '0')
  if not ticket then ticket = timeOf(call('ZRANGE', QUEUE, -1, -1, 'WITHSCORES')[2] or 0, 0) end -- it was overwritten
  call('HSET', STATE, 'ticket', int(ticket + 1))
  call('ZADD', QUEUE, int(ticket + 1), member)
  if not waiting then keep(QUEUE) end
end

-- await lets a place in the queue last ms from now.
local function await(member, ms)
  call('ZADD', WAITERS, int(clock + ms), member)
  if not waiting then keep(WAITERS) end
  waiting = true
end

local function leaveQueue(member)
  call('ZREM', QUEUE, member)
  call('ZREM', WAITERS, member)
  waiting = call('EXISTS', QUEUE, WAITERS) > 0 -- or the next to wait would make keys without a time to live
end

-- grantWaiting expires what has to, opens the gate when it may, and serves waiters in the order in
-- which they asked.
local function grantWaiting()
  if producers > 0 then
    for _, member in ipairs(call('ZRANGEBYSCORE', HELD, '-inf', int(clock), 'LIMIT', 0, MAX_STEP)) do drop(member) end
  end
  if waiting then
    for _, member in ipairs(call('ZRANGEBYSCORE', WAITERS, '-inf', int(clock), 'LIMIT', 0, MAX_STEP)) do leaveQueue(member) end
  end
  if closed and above() == '' then closed = false end
  while waiting and not closed and not full and #granted < MAX_STEP do
    local member = call('ZRANGE', QUEUE, 0, 0)[1]
    if not member then break end
    local id, n, b, high, highBytes = parse(member)
    local why = id and refused(n, b, high, highBytes)
    if not id then
      leaveQueue(member) -- it is no reservation
    elseif why ~= '' then
      closed = why
    else
      leaveQueue(member)
      hold(member, n, b, tonumber(ARGV[14]))
      granted[#granted + 1] = id
    end
  end
end

-- finish writes the sums, and tells waiters: those that were granted, and all others when to look
-- again at the latest.
local function finish()
  call('HSET', STATE, 'closed', closed or '', 'records', int(heldRecords), 'bytes', int(heldBytes))
  if #granted > 0 then
    redis.pcall('PUBLISH', ARGV[2], int(nextExpiry()) .. ' ' .. table.concat(granted, ' ')) -- a hint: a user may have no right to the channel
  end
end

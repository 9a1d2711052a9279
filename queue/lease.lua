-- Leases one batch. A batch that waits for redelivery comes first, then a fresh one is sealed.
-- KEYS ready stat leases redo handed open delayed never
-- ARGV prefix, id, records, bytes, lease ms, least, max failures, max crashes, backoff ms, max backoff ms, random, fast
local ready, stat, leases, redo, open, delayed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[6], KEYS[7]
local prefix, id = ARGV[1], ARGV[2]
local records, bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function int(x) return string.format('%.0f', x) end
local deadline = now + ARGV[5]

-- Reads first: a key of a wrong type stops the script here, before it has written anything.
local known = redis.call('HMGET', stat, 'paused', 'avg')
local expired = redis.call('ZRANGEBYSCORE', leases, '-inf', int(now), 'LIMIT', 0, 64)
local late = redis.call('ZRANGEBYSCORE', delayed, '-inf', int(now), 'LIMIT', 0, 16)
local waiting = redis.call('ZCARD', redo)
redis.call('ZCARD', open)
local len = redis.call('LLEN', ready)
if known[1] then return {'P', 0, len} end

-- Leases that ran out. Only the lease of a worker whose own code held the batch is a crash. An expired settling lease is not,
-- nor is one whose holder last extended it as waiting for the durable side.
for i, x in ipairs(expired) do
  local m = prefix .. 'm:' .. x
  local held = redis.call('HMGET', m, 'st', 'waits')
  local st, waits = held[1], held[2]
  redis.call('ZREM', leases, x)
  if st then
    local due = now
    if st == 'L' and not waits then
      local k = redis.call('HINCRBY', m, 'crashes', 1)
      local wait = math.min(ARGV[9] * 2 ^ math.min(k - 1, 40), tonumber(ARGV[10]))
      due = now + math.floor(wait * (1 - (ARGV[11] + i * 0.37) % 1 / 2))
    end
    redis.call('HSET', m, 'st', 'R')
    redis.call('ZADD', redo, int(due), x)
    waiting = waiting + 1
  end
end

-- Delayed records whose time has come. A list that does not fit in one go stays due.
if #late > 0 then
  local budget, moved = 2000, 0
  for _, x in ipairs(late) do
    local l = prefix .. 'l:' .. x
    local done = false
    while moved < budget do
      if not redis.call('LMOVE', l, ready, 'RIGHT', 'LEFT') then done = true break end
      moved = moved + 1
    end
    if not done then break end
    redis.call('ZREM', delayed, x)
  end
  redis.call('HINCRBY', stat, 'delayed', -moved)
  len = len + moved
end

if waiting > 0 then
  for _, x in ipairs(redis.call('ZRANGEBYSCORE', redo, '-inf', int(now), 'LIMIT', 0, 64)) do
    local m = prefix .. 'm:' .. x
    redis.call('ZREM', redo, x)
    local flat = redis.call('HGETALL', m)
    if #flat > 0 then
      local f = {}
      for i = 1, #flat, 2 do f[flat[i]] = flat[i + 1] end
      local over = tonumber(f.fails or 0) >= tonumber(ARGV[7]) or tonumber(f.crashes or 0) >= tonumber(ARGV[8])
      local att = redis.call('HINCRBY', m, 'att', 1)
      redis.call('HSET', m, 'st', over and 'S' or 'L')
      if f.waits then redis.call('HDEL', m, 'waits') end
      redis.call('ZADD', leases, int(deadline), x)
      if not over then redis.call('HINCRBY', stat, 'redelivered', f.n) end
      return {over and 'S' or 'R', x, att, deadline, now, flat}
    end
  end
end

if len == 0 or len < tonumber(ARGV[6]) then
  -- When does something come due?
  local due
  for _, z in ipairs({leases, redo, delayed}) do
    local first = redis.call('ZRANGE', z, 0, 0, 'WITHSCORES')
    if first[2] and (not due or tonumber(first[2]) < due) then due = tonumber(first[2]) end
  end
  return {'E', due and math.max(due - now, 0) or -1, len}
end

-- Seal. The list keeps the order of the ready list: the oldest record, position 0, is at its right end.
local b = prefix .. 'b:' .. id
local n = math.min(len, records)
local size
if ARGV[12] == '1' then
  -- The move is done by single commands: a record that passes through Lua costs as much as all the rest. So the bytes
  -- are not added up, but bounded by the memory of the list, which is more. Guess first, to move little in vain.
  local guess = tonumber(known[2] or 0)
  local function sample(i)
    local v = redis.call('LINDEX', ready, i)
    if v then guess = math.max(guess, #v) end
  end
  sample(-1)
  if guess * n <= bytes then sample(-math.ceil(n / 2)) sample(-n) end
  if guess * n > bytes then n = math.max(1, math.min(n, math.ceil(bytes * 1.1 / guess))) end
  if n == len then
    redis.call('RENAME', ready, b)
  else
    redis.call('SORT', ready, 'BY', 'nosort', 'LIMIT', len - n, n, 'STORE', b)
    redis.call('LTRIM', ready, 0, len - n - 1)
  end
  size = redis.call('MEMORY', 'USAGE', b, 'SAMPLES', 0)
  if size > bytes and n > 1 then
    local fit, sum = 0, 0
    while fit < n do
      local part = redis.call('LRANGE', b, math.max(n - fit - 64, 0), n - fit - 1)
      local over = false
      for i = #part, 1, -1 do
        if fit > 0 and sum + #part[i] > bytes then over = true break end
        sum = sum + #part[i]
        fit = fit + 1
      end
      if over then break end
    end
    for _ = fit + 1, n do redis.call('LMOVE', b, ready, 'LEFT', 'RIGHT') end
    n, size = fit, sum
  end
else
  local sum, k = 0, 0
  while k < n do
    local v = redis.call('LMOVE', ready, b, 'RIGHT', 'LEFT')
    if k > 0 and sum + #v > bytes then
      redis.call('LMOVE', b, ready, 'LEFT', 'RIGHT')
      break
    end
    sum = sum + #v
    k = k + 1
  end
  n, size = k, sum
end
redis.call('HSET', prefix .. 'm:' .. id, 'n', n, 'att', 1, 'st', 'L', 'root', id, 'off', 0, 'sealed', int(now), 'first', int(now))
redis.call('ZADD', leases, int(deadline), id)
redis.call('ZADD', open, int(now), id)
redis.call('HINCRBY', stat, 'taken', n)
redis.call('HINCRBY', stat, 'inflight', n)
local avg, old = math.ceil(size / n), tonumber(known[2] or 0)
if avg > old * 1.2 or avg < old * 0.8 then redis.call('HSET', stat, 'avg', avg) end
return {'B', id, 1, deadline, now, n}

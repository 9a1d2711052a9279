-- Adds events of one key to their tumbling windows and to the key's sliding set.
-- KEYS 1 key's marks, 2 key's open windows, 3 keys by their last event, 4 due windows, 5 closed and not done, 6 late events,
--      7 key's sliding set, 8… one tumbling window each
-- ARGV 1 key, 2 size, 3 lateness, 4 keep, 5 retention, 6 ahead (ms), 7 number of windows, then for each window: its start, how many
--      events, and for each event time and data. Without tumbling windows (size 0) there is one group, and no KEYS 8.
local key, size, lateness, keep = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local retention, ahead = tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function s(n) return string.format('%.0f', n) end -- tostring would round to 14 digits

-- Late is judged by what was there before this call, so one call cannot make its own events late.
local newest = tonumber(redis.call('HGET', KEYS[1], 'newest') or '-inf') or -math.huge
local floor = tonumber(redis.call('HGET', KEYS[1], 'floor') or '-inf') or -math.huge
local mark = newest - lateness

local added, repeated, late, entered = 0, 0, 0, 0
local function tooLate(reason, at, data)
  late = late + 1
  redis.call('ZADD', KEYS[6], 'NX', s(now), reason .. ' ' .. at .. ' ' .. #key .. ' ' .. key .. data)
end

local arg = 8
for w = 1, tonumber(ARGV[7]) do
  local start, n = ARGV[arg], tonumber(ARGV[arg + 1])
  arg = arg + 2
  local reason, name, inWindow = nil, nil, {}
  if size > 0 then
    local stop = start + size
    name = start .. ' ' .. ARGV[2] .. ' ' .. key
    if stop <= mark then reason = 'watermark'
    elseif stop <= floor then reason = 'idle'
    elseif redis.call('HEXISTS', KEYS[5], name) == 1 then reason = 'closed' end
  end
  for i = 1, n do
    local at, data = ARGV[arg], ARGV[arg + 1]
    local ms = tonumber(at)
    arg = arg + 2
    if ms > now + ahead then
      tooLate('ahead', at, data)
    else
      local slid = nil
      if keep > 0 and ms > now - keep then slid = redis.call('ZADD', KEYS[7], 'NX', at, data) end
      if size == 0 then
        if slid == nil then tooLate('old', at, data)
        elseif slid == 1 then added = added + 1
        else repeated = repeated + 1 end
      elseif reason == nil then
        if redis.call('ZADD', KEYS[7 + w], 'NX', at, data) == 1 then added = added + 1 else repeated = repeated + 1 end
        entered = entered + 1
        inWindow[1] = true
        if ms > newest then newest = ms end
      elseif redis.call('ZSCORE', KEYS[7 + w], data) then
        repeated = repeated + 1 -- a retry of what was in time
      else
        tooLate(reason, at, data)
      end
    end
  end
  if inWindow[1] then
    redis.call('PEXPIRE', KEYS[7 + w], s(retention))
    redis.call('ZADD', KEYS[2], s(start + size), start)
  end
end

if keep > 0 then
  local old = redis.call('ZRANGEBYSCORE', KEYS[7], '-inf', s(now - keep), 'LIMIT', 0, 2000)
  for i = 1, #old, 500 do redis.call('ZREM', KEYS[7], unpack(old, i, math.min(i + 499, #old))) end
  redis.call('PEXPIRE', KEYS[7], s(keep + ahead))
end
if entered > 0 then
  redis.call('HSET', KEYS[1], 'newest', s(newest))
  -- The watermark has moved: what it has passed is closed from this moment on.
  local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', s(newest - lateness), 'LIMIT', 0, 1000)
  for _, start in ipairs(due) do
    local name = start .. ' ' .. ARGV[2] .. ' ' .. key
    redis.call('ZADD', KEYS[4], s(now), name)
    redis.call('HSET', KEYS[5], name, '0 watermark')
    redis.call('ZREM', KEYS[2], start)
  end
  if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('ZADD', KEYS[3], s(now), key) else redis.call('ZREM', KEYS[3], key) end
end
local old = redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', s(now - retention), 'LIMIT', 0, 2000)
for i = 1, #old, 500 do redis.call('ZREM', KEYS[6], unpack(old, i, math.min(i + 499, #old))) end
-- The keys of one key live as long as its windows; what all keys share lives twice as long.
redis.call('PEXPIRE', KEYS[1], s(retention))
redis.call('PEXPIRE', KEYS[2], s(retention))
for i = 3, 6 do redis.call('PEXPIRE', KEYS[i], s(2 * retention)) end
return {added, repeated, late}

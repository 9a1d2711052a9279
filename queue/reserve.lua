-- Reserves room for a push under the bound of the true depth, or pushes at once when payloads are
-- given. A reservation that its producer does not use expires after a while.
-- ARGV: prefix, bound (0: none), records, reservation, ms that it lasts, payloads of a small push.
-- Returns {1, depth}, {0, depth} when the queue is full, {-1, layout of the data}, or {-3, counter}
-- when a counter of the depth holds no number.
local max, records, reservation, lastsMS = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local FIRST_PAYLOAD, MAX_EXPIRED = 6, 100

-- expire ends the reservations that producers have abandoned, and those that a clock which ran
-- ahead has put too far off. A member is "id:records". It returns how many records they held.
local function expire(now)
  needs('ZREM', 'HINCRBY')
  local freed = 0
  for _, range in ipairs({{'-inf', int(now)}, {'(' .. int(now + 2 * lastsMS), '+inf'}}) do
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', PUSHING, range[1], range[2], 'LIMIT', 0, MAX_EXPIRED)) do
      redis.call('ZREM', PUSHING, member)
      freed = freed + (number(string.match(member, ':(%d+)$')) or 0)
    end
  end
  count('reserved', -freed)
  return freed
end

local depth, held, layout, damaged = readDepth()
if layout and layout ~= LAYOUT then return {-1, layout} end
if max > 0 and damaged then return {-3, damaged} end
redis.call('ZCARD', PUSHING)
needs(ARGV[FIRST_PAYLOAD] and 'LPUSH' or 'ZADD')
if max > 0 and depth + held + records > max then
  if held > 0 then held = held - expire(serverTime()) end
  if depth + held + records > max then return {0, depth + held} end
end
if ARGV[FIRST_PAYLOAD] then
  redis.call('LPUSH', READY, unpack(ARGV, FIRST_PAYLOAD))
elseif max > 0 then
  needs('HINCRBY')
  redis.call('ZADD', PUSHING, int(serverTime() + lastsMS), reservation .. ':' .. int(records))
  count('reserved', records)
end
return {1, depth}

-- Pushes records and moves the position of their source, both or neither. A call that was done
-- before changes nothing.
-- ARGV: prefix, source, position before, position after, bound of the depth (0: none), records …
-- Returns {1, ''} when it pushed, {2, ''} when the position was moved before, {0, depth} when the
-- queue is full, {-1, layout of the data}, {-2, position} when the source is elsewhere, or {-3,
-- counter} when a counter of the depth holds no number.
local source, from, to, max = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local FIRST_PAYLOAD, AT_ONCE = 6, 1000
local positions = PREFIX .. 'positions'

local depth, reserved, layout, damaged = readDepth()
if layout and layout ~= LAYOUT then return {-1, layout} end
depth = depth + reserved
local at = redis.call('HGET', positions, source) or ''
if at == to then return {2, ''} end
if at ~= from then return {-2, at} end
if max > 0 and damaged then return {-3, damaged} end
if max > 0 and depth + #ARGV - FIRST_PAYLOAD + 1 > max then return {0, depth} end
needs('LPUSH', 'HSET')
for i = FIRST_PAYLOAD, #ARGV, AT_ONCE do
  redis.call('LPUSH', READY, unpack(ARGV, i, math.min(i + AT_ONCE - 1, #ARGV)))
end
redis.call('HSET', positions, source, to)
return {1, ''}

-- Gives back batches whose lease was not answered: their holder does not know them. No crash is
-- counted, and the attempt fences off an answer that comes too late.
-- ARGV: prefix, then the ids of the calls of lease.lua. A fresh batch has the id of its call; a
-- redelivered one keeps that in the field "call".
-- Returns the ids of the calls whose batches were given back.
local MAX_LEASES = 1000 -- looked at in one call
local found = {}

-- giveBack gives a batch back that was leased and nothing else since.
local function giveBack(x, call)
  local state, last = unpack(redis.call('HMGET', metaOf(x), 'st', 'call'))
  if (state ~= 'L' and state ~= 'S') or (last or x) ~= call then return end
  needs('ZREM', 'ZADD', 'HSET')
  local now = int(begin())
  redis.call('ZREM', LEASES, x)
  redis.call('ZADD', REDO, now, x)
  redis.call('HSET', metaOf(x), 'st', 'R')
  found[#found + 1] = call
end

local calls = {}
for i = 2, #ARGV do
  calls[ARGV[i]] = true
  if redis.call('TYPE', metaOf(ARGV[i])).ok == 'hash' then giveBack(ARGV[i], ARGV[i]) end
end
for _, x in ipairs(redis.call('ZRANGE', LEASES, 0, MAX_LEASES - 1)) do
  local last = redis.call('TYPE', metaOf(x)).ok == 'hash' and redis.call('HGET', metaOf(x), 'call')
  if last and calls[last] then giveBack(x, last) end
end
return found

-- Reads where batches are, in one step. It writes nothing.
-- ARGV: prefix, operation, and then:
--   'ids':    ids
--   'oldest': how many of the batches in flight, oldest first
--   'before': how many, ms: those first sealed until then, youngest first
-- Returns the number of batches in flight, and for each that exists {id, score of the set that
-- holds it or '', fields}.
checkLayout(redis.call('HGET', STAT, 'layout'))
local operation = ARGV[2]
local FIELDS = {'st', 'att', 'n', 'root', 'off', 'fails', 'crashes', 'sealed', 'first', 'waits', 'worker', 'reason'}

local ids
if operation == 'oldest' then
  ids = redis.call('ZRANGE', OPEN, 0, ARGV[3] - 1)
elseif operation == 'before' then
  ids = redis.call('ZRANGE', OPEN, ARGV[4], '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, ARGV[3])
else
  ids = {unpack(ARGV, 3)}
end

local out = {redis.call('ZCARD', OPEN)}
for _, id in ipairs(ids) do
  local fields = read('HMGET', metaOf(id), unpack(FIELDS))
  local set = fields and SET_OF[fields[1]]
  if set then
    for i = 1, #FIELDS do fields[i] = fields[i] or '' end
    out[#out + 1] = {id, redis.call('ZSCORE', set, id) or '', fields}
  end
end
return out

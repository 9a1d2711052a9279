-- Brings handed-off batches back at once, without counting anything against them. The attempt shows
-- that the batch is still the one that was asked about: in between it may have come back and been
-- handed off anew. Returns how many came back.
-- ARGV: prefix, then for each batch: id, attempt.
needs('ZREM', 'ZADD', 'HSET', 'HINCRBY')
local now = begin()
local done = 0
for i = 2, #ARGV, 2 do
  local id, attempt = ARGV[i], ARGV[i + 1]
  local meta = read('HMGET', metaOf(id), 'st', 'att', 'n')
  if not meta or not meta[1] or not sizeOf(meta[3]) then
    setAside(id, now)
  elseif meta[1] == 'H' and meta[2] == attempt then
    redis.call('ZREM', HANDED, id)
    redis.call('ZADD', REDO, int(now), id)
    redis.call('HSET', metaOf(id), 'st', 'R')
    count('handed', -number(meta[3]))
    done = done + 1
  end
end
return done

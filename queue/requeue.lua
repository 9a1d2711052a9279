-- Takes dead records back as batches of one. They keep root and place, so they meet their own
-- claims, and start anew otherwise. One without a valid place gets one of its own.
-- Returns how many came back, and how many of the ids were looked at: large payloads end the call
-- early.
-- ARGV: prefix, then for each record: id of the dead record, id of the new batch.
local MAX_BYTES = 4194304 -- of payloads that pass through Lua in one call
needs('HINCRBY', 'HMGET', 'HSET', 'HSTRLEN', 'LPUSH', 'UNLINK', 'ZADD', 'ZREM')
needsKeys('b:', 'm:', 'd:')
local now = int(begin())
local done, size, seen = 0, 0, 0
for i = 2, #ARGV, 2 do
  local id, batch = ARGV[i], ARGV[i + 1]
  size = size + (read('HSTRLEN', deadKeyOf(id), 'p') or 0)
  if size > MAX_BYTES and seen > 0 then break end
  seen = seen + 1
  local dead = read('HMGET', deadKeyOf(id), 'p', 'root', 'off', 'first', 'att')
  if dead and dead[1] then
    local payload, root, place, first, attempts = dead[1], dead[2], placeOf(dead[3]), natural(dead[4]), natural(dead[5])
    if not isID(root) or not place then root, place = batch, 0 end
    if not isTime(dead[4], tonumber(now)) then first = nil end
    redis.call('LPUSH', listOf(batch), payload)
    redis.call('HSET', metaOf(batch), 'n', 1, 'att', 0, 'st', 'R', 'root', root, 'off', int(place), 'sealed', now,
      'first', first and int(first) or now, 'past', int(attempts or 0))
    redis.call('ZADD', REDO, now, batch)
    redis.call('ZADD', OPEN, now, batch)
    redis.call('ZREM', DEAD, id)
    redis.call('UNLINK', deadKeyOf(id))
    count('dead', -1)
    count('inflight', 1)
    count('requeued', 1)
    done = done + 1
  end
end
return {done, seen}

-- Acknowledges batches, each with its undo in the same step. A batch that is gone was acknowledged before: its undo was done
-- then, and by now its claim may be another's, so nothing is done.
-- KEYS ready stat leases redo handed open delayed never
-- ARGV prefix, then for each batch: id, number of undos, and for each undo: key, offset, what must be there, what it becomes
local prefix = ARGV[1]
local zset = {L = KEYS[3], S = KEYS[3], R = KEYS[4], H = KEYS[5]}
local acked, records, handed = 0, 0, 0
local i = 2
while ARGV[i] do
  local id, undos = ARGV[i], tonumber(ARGV[i + 1])
  i = i + 2
  local m = prefix .. 'm:' .. id
  local f = redis.call('HMGET', m, 'n', 'st')
  if f[1] then
    for j = i, i + undos * 4 - 1, 4 do
      local old = ARGV[j + 2]
      if redis.call('GETRANGE', ARGV[j], ARGV[j + 1], ARGV[j + 1] + #old - 1) == old then
        redis.call('SETRANGE', ARGV[j], ARGV[j + 1], ARGV[j + 3])
      end
    end
    redis.call('ZREM', zset[f[2]], id)
    redis.call('ZREM', KEYS[6], id)
    redis.call('UNLINK', prefix .. 'b:' .. id, m)
    acked = acked + 1
    records = records + f[1]
    if f[2] == 'H' then handed = handed + f[1] end
  end
  i = i + undos * 4
end
if acked > 0 then
  redis.call('HINCRBY', KEYS[2], 'acked', records)
  redis.call('HINCRBY', KEYS[2], 'inflight', -records)
  if handed > 0 then redis.call('HINCRBY', KEYS[2], 'handed', -handed) end
end
return acked

-- Splits a batch into contiguous chunks, each a batch of its own, or buries the one record that it holds. Does nothing if the
-- batch is gone: somebody else has done it. When the batch is void in a ledger nobody can promote it any more, so it does not
-- matter who holds it; without a ledger only the holder of the settling lease may do this.
-- KEYS ready stat leases redo handed open delayed never
-- ARGV prefix, id, attempt ('' when void), reason, number of children, child ids…, then for each undo: key, offset, what
-- must be there, what it becomes
local prefix, id = ARGV[1], ARGV[2]
local stat, redo, open = KEYS[2], KEYS[4], KEYS[6]
local m, b = prefix .. 'm:' .. id, prefix .. 'b:' .. id
local flat = redis.call('HGETALL', m)
if #flat == 0 then return 0 end
local f = {}
for i = 1, #flat, 2 do f[flat[i]] = flat[i + 1] end
if ARGV[3] ~= '' and (f.st ~= 'S' or f.att ~= ARGV[3]) then return -1 end
local n, children = tonumber(f.n), tonumber(ARGV[5])
if (n == 1) ~= (children == 0) or children > n then
  return redis.error_reply('HEADRACE batch ' .. id .. ' has ' .. n .. ' records and ' .. children .. ' children')
end
if redis.call('LLEN', b) ~= n then
  return redis.error_reply('HEADRACE batch ' .. id .. ' has ' .. redis.call('LLEN', b) .. ' records, not ' .. n)
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local past = (f.past or 0) + f.att
local zset = ({L = KEYS[3], S = KEYS[3], R = KEYS[4], H = KEYS[5]})[f.st]

if n == 1 then
  for j = 6, #ARGV, 4 do
    local old = ARGV[j + 2]
    if redis.call('GETRANGE', ARGV[j], ARGV[j + 1], ARGV[j + 1] + #old - 1) == old then
      redis.call('SETRANGE', ARGV[j], ARGV[j + 1], ARGV[j + 3])
    end
  end
  redis.call('HSET', prefix .. 'd:' .. id, 'p', redis.call('LINDEX', b, 0), 'root', f.root, 'off', f.off, 'reason', ARGV[4],
    'att', past, 'fails', f.fails or 0, 'crashes', f.crashes or 0, 'first', f.first, 'died', now)
  redis.call('ZADD', prefix .. 'dead', now, id)
  redis.call('HINCRBY', stat, 'dead', 1)
  redis.call('HINCRBY', stat, 'inflight', -1)
else
  local since = redis.call('ZSCORE', open, id) or now
  local at = 0
  for c = 1, children do
    local x = ARGV[5 + c]
    local size = math.floor(n * c / children) - at
    for _ = 1, size do redis.call('LMOVE', b, prefix .. 'b:' .. x, 'RIGHT', 'LEFT') end
    local cm = prefix .. 'm:' .. x
    redis.call('HSET', cm, 'n', size, 'att', 0, 'st', 'R', 'root', f.root, 'off', f.off + at, 'sealed', f.sealed,
      'first', f.first, 'past', past, 'reason', ARGV[4])
    for k, v in pairs(f) do
      if string.sub(k, 1, 2) == 'r:' then redis.call('HSET', cm, k, string.sub(v, at + 1, at + size)) end
    end
    redis.call('ZADD', redo, now, x)
    redis.call('ZADD', open, since, x)
    at = at + size
  end
  redis.call('HINCRBY', stat, 'splits', 1)
end
redis.call('ZREM', zset, id)
redis.call('ZREM', open, id)
redis.call('UNLINK', b, m)
if f.st == 'H' then redis.call('HINCRBY', stat, 'handed', -n) end
return n == 1 and 2 or 1

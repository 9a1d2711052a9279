-- Says of each batch what its hash, its list and the sorted sets say, in one step.
-- KEYS ready stat leases redo handed open delayed never
-- ARGV prefix, then ids
local out = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  local f = redis.call('HMGET', ARGV[1] .. 'm:' .. id, 'n', 'st')
  local at = ''
  for k, letter in pairs({[3] = 'L', [4] = 'R', [5] = 'H', [6] = 'O'}) do
    if redis.call('ZSCORE', KEYS[k], id) then at = at .. letter end
  end
  out[i - 1] = {tonumber(f[1] or -1), f[2] or '', redis.call('LLEN', ARGV[1] .. 'b:' .. id), at}
end
return out

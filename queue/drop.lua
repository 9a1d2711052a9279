-- Throws dead records away, because somebody asked for it.
-- KEYS ready stat leases redo handed open delayed never
-- ARGV prefix, then ids of dead records
local done = 0
for i = 2, #ARGV do
  if redis.call('ZREM', ARGV[1] .. 'dead', ARGV[i]) == 1 then
    redis.call('UNLINK', ARGV[1] .. 'd:' .. ARGV[i])
    done = done + 1
  end
end
if done > 0 then
  redis.call('HINCRBY', KEYS[2], 'dead', -done)
  redis.call('HINCRBY', KEYS[2], 'dropped', done)
end
return done

-- Discards dead records. Returns how many there were.
-- ARGV: prefix, then the ids of dead records.
needs('ZREM', 'UNLINK', 'HINCRBY')
needsKeys('d:')
checkTypes()
checkLayout(redis.call('HGET', STAT, 'layout'))
local done = 0
for i = 2, #ARGV do
  if redis.call('ZREM', DEAD, ARGV[i]) == 1 then
    redis.call('UNLINK', deadKeyOf(ARGV[i]))
    done = done + 1
  end
end
count('dead', -done)
count('dropped', done)
return done

-- KEYS[1] is the lock, ARGV[1] our token, ARGV[2] its new time to live in ms: 0 gives it up.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])

-- The lock of a refresh. ARGV: what to do, the caller's token, the time to live in ms. Replies 1
-- when the caller holds the lock, or held it until now.
local LOCK = KEYS[1] -- KEYS[2] never exists, see version.go
local what, token, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])
local holder = redis.call('GET', LOCK)

if what == 'acquire' and not holder then
  redis.call('SET', LOCK, token, 'PX', ttl)
  return 1
end
if holder ~= token then
  -- The server's clock was set back, or another program has overwritten the lock: it must not live
  -- longer than any other.
  local left = holder and redis.call('PTTL', LOCK)
  if left and (left < 0 or left > ttl) then redis.call('PEXPIRE', LOCK, ttl) end
  return 0
end
if what == 'release' then
  redis.call('DEL', LOCK)
else
  redis.call('PEXPIRE', LOCK, ttl)
end
return 1

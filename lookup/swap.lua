-- Makes a finished version the current one. KEYS: the pointer, the lock, the new version. ARGV: the lock's token, the
-- version, its number of entries, Keep in ms, the prefix of the versions' keys, the channel. Replies 0 when the lock
-- belongs to somebody else by now: a refresher that slept must not put its old data over newer.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
local count = tonumber(ARGV[3])
if redis.call('HLEN', KEYS[3]) ~= count then return redis.error_reply('HEADRACE the version has lost entries') end
local old = string.match(redis.call('GET', KEYS[1]) or '', '^%S+')
if old then redis.call('PEXPIRE', ARGV[5] .. old, ARGV[4]) end
if count > 0 then redis.call('PERSIST', KEYS[3]) end
local t = redis.call('TIME')
local ms = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
redis.call('SET', KEYS[1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ms)
redis.call('PUBLISH', ARGV[6], ARGV[2])
return 1

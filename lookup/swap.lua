-- Makes a finished version the current one. Replies 1, or 0 when the lock belongs to another
-- refresher or another version has become current: a refresher that slept must not replace newer
-- data.
local CURRENT, LOCK = KEYS[1], KEYS[2] -- KEYS[3] never exists, see version.go
local FIRST_PART = 4 -- KEYS: the parts of the new version, then those of the old one
local token, old, new, entries, parts = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local keep, stagger, channel, version = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], ARGV[9]

if redis.call('GET', LOCK) ~= token then return 0 end
if (redis.call('GET', CURRENT) or '') ~= old then return 0 end

local have = 0
for i = FIRST_PART, FIRST_PART + parts - 1 do have = have + redis.call('HLEN', KEYS[i]) end
if have ~= entries then
  return redis.error_reply('HEADRACE the new version has ' .. have .. ' of ' .. entries .. ' entries')
end

needs('PERSIST', 'PEXPIRE', 'SET')
-- Checked. From here on it only writes.
for i = FIRST_PART, FIRST_PART + parts - 1 do redis.call('PERSIST', KEYS[i]) end
-- The old parts expire one after the other: the server frees each at once.
for i = FIRST_PART + parts, #KEYS do
  redis.call('PEXPIRE', KEYS[i], keep + (i - FIRST_PART - parts) * stagger)
end
local time = redis.call('TIME')
redis.call('SET', CURRENT, new .. string.format(' %.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
redis.pcall('PUBLISH', channel, version) -- a hint: a user without the right to send it still refreshes
return 1

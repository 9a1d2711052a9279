-- Replies which version is current, and the server's time in milliseconds.
local CURRENT = KEYS[1] -- KEYS[2] never exists, see version.go

local time = redis.call('TIME')
return { redis.call('GET', CURRENT), time[1] * 1000 + math.floor(time[2] / 1000) }

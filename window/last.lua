-- The first page of the last d ms of a sliding set, by the server's clock, with what the clock says.
-- KEYS 1 sliding set; ARGV 1 d in ms, 2 size of the page, 0: only count
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function s(n) return string.format('%.0f', n) end
local from = '(' .. s(now - tonumber(ARGV[1]))
if ARGV[2] == '0' then return {s(now), redis.call('ZCOUNT', KEYS[1], from, s(now))} end
return {s(now), redis.call('ZRANGEBYSCORE', KEYS[1], from, s(now), 'WITHSCORES', 'LIMIT', 0, ARGV[2])}

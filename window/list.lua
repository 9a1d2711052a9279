-- Lists the open windows of a key. ARGV 7 key, 8 end of the last one known (ms), 9 how many
-- Reply {window, events} for each, by its end. Those that end with the last one come too.
local key, reply = ARGV[7], {}
local first = redis.call('ZCOUNT', openKey(key), '-inf', ARGV[8])
local last = redis.call('ZRANGE', openKey(key), first + ARGV[9] - 1, first + ARGV[9] - 1, 'WITHSCORES')[2] or '+inf'
for _, name in ipairs(redis.call('ZRANGEBYSCORE', openKey(key), '(' .. ARGV[8], last)) do
  local window = name .. ' ' .. key
  if parts(window) then
    local info = readInfo(window, 'n')
    reply[#reply + 1] = {window, number(info[1]) or 0}
  end
end
return reply

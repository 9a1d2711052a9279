-- Reads the batches of each state, the first by the time that orders them, and the delayed pushes.
-- It writes nothing, and costs no more than the number of batches that is asked for.
-- KEYS: leases, redo, handed, broken, delayed.
-- Returns the server's time in milliseconds, and for each key the number of its members and the
-- members: id, time, and the fields of the batch (of a push: its records).
local prefix, most = ARGV[1], tonumber(ARGV[2])
local FIELDS = {'st', 'att', 'n', 'root', 'off', 'fails', 'crashes', 'sealed', 'first', 'worker', 'reason'}
local DELAYED = 5
local t = redis.call('TIME')
local out = {t[1] * 1000 + math.floor(t[2] / 1000)}
for k, key in ipairs(KEYS) do
  local set = {redis.call('ZCARD', key)}
  local members = redis.call('ZRANGE', key, 0, most - 1, 'WITHSCORES')
  for i = 1, #members, 2 do
    local id, fields = members[i], nil
    if k == DELAYED then
      fields = {redis.call('LLEN', prefix .. 'l:' .. id)}
    else
      fields = redis.call('HMGET', prefix .. 'm:' .. id, unpack(FIELDS))
      for f = 1, #FIELDS do fields[f] = fields[f] or '' end
    end
    set[#set + 1] = {id, members[i + 1], fields}
  end
  out[#out + 1] = set
end
return out

-- Reads the oldest records of the ready list, each cut to a number of bytes. It writes nothing.
-- Returns the length and the beginning of each, oldest first.
local records, bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local out = {}
for i = 1, records do
  local record = redis.call('LRANGE', KEYS[1], -i, -i)[1]
  if not record then break end
  out[#out + 1] = #record
  out[#out + 1] = string.sub(record, 1, bytes)
end
return out

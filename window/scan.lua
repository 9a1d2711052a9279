-- Reads a set of events bucket after bucket.
-- ARGV 7 kind, 8 name of the set, 9 from, 10 to (ms, without to itself), 11 bucket, 12 and
--      13 time and member of the cursor in it ('' '': none), 14 how many at most, 15 how many
--      bytes, 16 keep (ms; 0: it is no sliding window)
-- Reply {next bucket, -1: that is all; 1: continue after the last entry in it; then time and
--      member of each}
local kind, name, from, to = ARGV[7], ARGV[8], since(ARGV[9], tonumber(ARGV[16])), ARGV[10]
local bucket, at, member = tonumber(ARGV[11]), ARGV[12], ARGV[13]
local entries, bytes = tonumber(ARGV[14]), tonumber(ARGV[15])
local buckets = isSplit(kind, name) and BUCKETS or 0
local reply = {-1, 0}
while bucket <= buckets do
  local key = setKey(kind, name, bucket)
  local rank = firstRank(key, from, at, member)
  local stop = call('ZCOUNT', key, '-inf', '(' .. to)
  local n, read = readPage(key, rank, stop, entries, bytes, reply)
  entries, bytes = entries - n, bytes - read
  if rank + n < stop then
    reply[1], reply[2] = bucket, 1
    return reply
  end
  bucket, at = bucket + 1, ''
  if entries <= 0 or bytes <= 0 then
    if bucket <= buckets then reply[1] = bucket end
    return reply
  end
end
return reply

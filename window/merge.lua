-- Reads the first entries after a cursor of every bucket of a set, for the client to merge.
-- ARGV 7 kind, 8 name of the set, 9 from, 10 to (ms, without to itself), 11 and 12 time and
--      member of the cursor ('' '': none), 13 how many entries are wanted, 14 how many bytes,
--      15 keep (ms; 0: it is no sliding window)
-- Reply for each bucket {1 if there are more, then time and member of each}
local kind, name, from, to = ARGV[7], ARGV[8], since(ARGV[9], tonumber(ARGV[15])), ARGV[10]
local at, member, entries, bytes = ARGV[11], ARGV[12], tonumber(ARGV[13]), tonumber(ARGV[14])
local buckets = isSplit(kind, name) and BUCKETS or 0
-- What the buckets return up to the place where the first of them ends makes a page. The set from
-- before the split is the largest.
local share, shareBytes = math.ceil(1.5 * entries / BUCKETS) + 8, bytes / BUCKETS
local reply = {}
for bucket = 0, buckets do
  local key = setKey(kind, name, bucket)
  local rank = firstRank(key, from, at, member)
  local stop = call('ZCOUNT', key, '-inf', '(' .. to)
  local page = {0}
  if bucket > 0 then entries, bytes = share, shareBytes end
  if rank + readPage(key, rank, stop, entries, bytes, page) < stop then page[1] = 1 end
  reply[#reply + 1] = page
end
return reply

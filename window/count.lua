-- Counts the events of a set, and returns the server's time. ARGV 7 kind, 8 name of the set, 9
-- from, 10 to (ms, without to itself), 11 in place of both: the length of the time before now (ms;
-- 0: none), 12 keep (ms; 0: it is no sliding window)
local kind, name, from, to = ARGV[7], ARGV[8], since(ARGV[9], tonumber(ARGV[12])), ARGV[10]
if ARGV[11] ~= '0' then from, to = int(now - ARGV[11] + 1), int(now + 1) end
local n = 0
for bucket = 0, isSplit(kind, name) and BUCKETS or 0 do n = n + call('ZCOUNT', setKey(kind, name, bucket), from, '(' .. to) end
return {n, int(now)}

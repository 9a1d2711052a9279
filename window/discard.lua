-- Deletes late events. ARGV 7 a byte for each (its bucket), 8…: members.
-- Reply how many there were.
local removed = 0
for i = 8, #ARGV do
  removed = removed + call('ZREM', setKey('late', '', 0), ARGV[i])
  if lateSplit then removed = removed + call('ZREM', setKey('late', '', string.byte(ARGV[7], i - 7) % BUCKETS + 1), ARGV[i]) end
end
return removed

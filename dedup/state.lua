-- ARGV[4] = 'read' or 'clear'. Replies the estimated number of ids in the window, then for each
-- table the prefix of its keys, the number of its chunks, the bytes of a chunk and the bytes of its
-- index. Clearing leaves one empty table with a name of its own, so that a new one cannot take an
-- old name.
local reply = { floor(live + 0.5) }
for i = 1, #tables do
  local g = tables[i]
  reply[#reply + 1] = g.log
  reply[#reply + 1] = g.tail > 0 and floor(g.tail / g.chunk) + 1 or 0
  reply[#reply + 1] = g.chunk
  reply[#reply + 1] = g.tail > 0 and g.slots * 4 or 0
end
if ARGV[4] == 'clear' and tables[1] then
  now = clock -- the way out when the clock was ahead and has been set back
  tables = { open(tonumber(ARGV[3])) }
  save()
end
return reply

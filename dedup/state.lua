-- ARGV[4] = 'read' or 'clear'. Replies the estimated number of ids in the window, then the prefix of the keys and the number of
-- chunks of every table. Clearing leaves one empty table, so that a new one cannot take an old name.
local reply = { floor(live + 0.5) }
for i = 1, #tables do
  reply[#reply + 1] = tables[i].log
  reply[#reply + 1] = math.ceil(tables[i].tail / tables[i].chunk)
end
if ARGV[4] == 'clear' and tables[1] then
  if now <= tables[1].start then now = tables[1].start + 1 end
  tables = {}
  open(tonumber(ARGV[3]))
  save()
end
return reply

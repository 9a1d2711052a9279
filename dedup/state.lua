-- ARGV[4] = 'read' or 'clear'. Replies the estimated number of ids in the window, then the prefix of the keys and the number of
-- chunks of every table. Clearing leaves one empty table with a name of its own, so that a new one cannot take an old name.
local reply = { floor(live + 0.5) }
for i = 1, #tables do
  reply[#reply + 1] = tables[i].log
  reply[#reply + 1] = floor(tables[i].tail / tables[i].chunk) + 1
end
if ARGV[4] == 'clear' and tables[1] then
  now = clock -- as it is: this is the way out when it was ahead and has been set back
  tables = { open(tonumber(ARGV[3])) }
  save()
end
return reply

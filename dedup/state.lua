-- ARGV[6] = 'read', 'clear', or 'mend', which gives up tables that are lost. Replies the estimated
-- number of ids in the window, how many ms its clock is ahead of the server's, how many tables were
-- lost, the version of the server (0 if unknown), and for each table: its id, seed, slots,
-- segments, the prefix of its keys, its segments that were built, its chunks, the bytes of a chunk,
-- where the log ends, from where on its entries are surely in the window, the time to live of its
-- keys, and how many claims it has taken. Clearing leaves one empty table with an id of its own, so
-- that a later one cannot take an old name, and begins again with the server's clock.
local what = ARGV[6]

-- alive returns the offset of the log from where on all entries are in the window.
local function alive(g)
  for i = 1, #g.marks, MARK do
    if g.marks[i] > now - g.window then return g.marks[i + 1] end
  end
  return g.tail
end

if what == 'mend' and drop_lost() then save() end
local versioned, version = pcall(function() return redis.REDIS_VERSION_NUM end)
local reply = { floor(live + 0.5), state.ahead, state.lost, versioned and version or 0 }
for i = 1, #tables do
  local g = tables[i]
  local chunks = g.tail > 0 and floor(g.tail / g.chunk) + 1 or 0
  for _, v in ipairs({ g.id, g.seed, g.slots, g.segments, g.log, g.built, chunks, g.chunk, g.tail, alive(g), tonumber(ttl(g)), g.count }) do
    reply[#reply + 1] = v
  end
end
if what == 'clear' and tables[1] then
  state.ahead, state.lost, now = 0, 0, wall
  tables = { open(expected) }
  save()
end
return reply

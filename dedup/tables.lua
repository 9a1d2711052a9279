-- The state of a window, common to all scripts (the Go side puts this text before each of them).
--
-- KEYS[1] is a string, the tables of the window as JSON, newest first. A table has an index, the
-- string <prefix><id>:i of 4-byte slots, and a log, the strings <prefix><id>:<k> of <chunk> bytes
-- each. A claim is an entry of the log, never moved, and an entry's offset in the whole log is its
-- name. A slot holds the offset of the newest entry whose id hashes to it.
--
--   log    runs, none across the end of a chunk
--   run    8 bytes digest of the root, 6 bytes time in ms, 4 bytes first place, entries
--   entry  4 bytes offset of the next older entry of this slot (0: none), 2 bytes place after the first one of the run,
--          2 bytes distance from the start of the run, 2 bytes length of the id (0: given back), id
--
-- All numbers are big-endian. What is older than the window is skipped, and its chunks expire; a
-- slot may still point there. A table goes on for ever unless it gets too full, too empty, or its
-- log has 4 GB; then a new one takes the claims, and the old one is asked as long as it has claims
-- of the window.
--
-- KEYS[2] never exists: while its slot moves to another node of a cluster, a node refuses a script
-- of which some keys are there and others are not. Without it the script would end in the middle,
-- at the first key that has moved. ARGV[1] is the window in ms, ARGV[2] the prefix of all keys,
-- ARGV[3] how many ids a window will see, at a guess.
local call, sub, byte, char, floor = redis.call, string.sub, string.byte, string.char, math.floor
local window, prefix = tonumber(ARGV[1]), ARGV[2]

local tables = cjson.decode(call('GET', KEYS[1]) or '[]')

-- Server time never runs backwards here: a clock that was set back would make claims look younger
-- than nothing.
local t = call('TIME')
local clock = t[1] * 1000 + floor(t[2] / 1000)
local now = clock
if tables[1] then now = math.max(now, tables[1].last) end

-- counted says how many claims a table had made at a time. Its marks, one each eighth of a window,
-- are {time, tail, count}.
local function counted(g, at)
  local marks = g.marks
  local from, to = nil, { g.last, g.tail, g.count }
  for i = #marks, 1, -1 do
    if marks[i][1] <= at then from = marks[i] break end
    to = marks[i]
  end
  if not from then return 0 end
  if to[1] <= at then return to[3] end
  return from[3] + (to[3] - from[3]) * (at - from[1]) / (to[1] - from[1])
end

-- name gives a table the names of its keys.
local function name(g)
  g.log = prefix .. string.format('%.0f', g.id) .. ':'
  g.index, g.keys = g.log .. 'i', {}
end

local live = 0 -- about as many claims are in the window
for i = #tables, 1, -1 do
  local g = tables[i]
  if g.last + g.window <= now then
    table.remove(tables, i)
  else
    local edge, marks = now - g.window, g.marks
    while marks[2] and marks[2][1] <= edge do table.remove(marks, 1) end
    g.dead = marks[1][1] <= edge and marks[1][2] or 0 -- all entries before this offset have left the window
    g.live = math.max(0, g.count - counted(g, edge))
    name(g)
    live = live + g.live
  end
end

local function u32(s, i)
  local a, b, c, d = byte(s, i, i + 3)
  return ((a * 256 + b) * 256 + c) * 256 + d
end

local function be32(v)
  return char(floor(v / 16777216), floor(v / 65536) % 256, floor(v / 256) % 256, v % 256)
end

-- ints reads a MessagePack array of 32-bit numbers, also in an emulation that lacks cmsgpack.
local function ints(s)
  local has, list = pcall(function() return cmsgpack.unpack(s) end)
  if has then return list end
  list = {}
  for i = 7, #s, 5 do list[#list + 1] = u32(s, i) end
  return list
end

-- slots runs BITFIELD, or does without where the server has none. size is the number of arguments
-- of each operation.
local function slots(command, args, n, size)
  local got = redis.pcall(command, unpack(args, 1, n))
  if not got.err then return got end
  got = {}
  for i = 2, n, size do
    local o = args[i + 2] / 8
    local v = call('GETRANGE', args[1], o, o + 3)
    got[#got + 1] = #v == 4 and u32(v, 1) or 0
    if size == 4 then call('SETRANGE', args[1], o, be32(args[i + 3])) end
  end
  return got
end

-- chunk returns the key of the chunk of table g that begins at an offset.
local function chunk(g, offset)
  local keys = g.keys
  local key = keys[offset]
  if not key then
    key = g.log .. offset / g.chunk
    keys[offset] = key
  end
  return key
end

-- find looks for a claim of the window in the entries from offset p on. want is the id with its
-- length before it. Returns the offset of the claim, and the digest of the root and the place that
-- hold the id.
local function find(g, p, want)
  local size = #want
  while p > 0 and p >= g.dead do
    local o = p % g.chunk
    local key = chunk(g, p - o)
    local e = call('GETRANGE', key, o, o + 7 + size)
    if #e < 8 then return end -- the chunk has expired, and all that is older with it
    if sub(e, 9) == want then
      local a, b, c, d = byte(e, 5, 8)
      local run = call('GETRANGE', key, o - c * 256 - d, o - c * 256 - d + 17)
      local hi, lo = byte(run, 9, 10)
      if (hi * 256 + lo) * 4294967296 + u32(run, 11) + g.window <= now then return end
      return p, sub(run, 1, 8), u32(run, 15) + a * 256 + b
    end
    p = u32(e, 1)
  end
end

local function save()
  local list, last = {}, now
  for i = 1, #tables do
    local g = tables[i]
    list[i] = { id = g.id, start = g.start, slots = g.slots, chunk = g.chunk, window = g.window, last = g.last, tail = g.tail, count = g.count,
      known = g.known, marks = g.marks }
    last = math.max(last, g.last + g.window)
  end
  if last == now then call('DEL', KEYS[1]) else call('SET', KEYS[1], cjson.encode(list), 'PX', string.format('%.0f', last - now + 1000)) end
end

-- open begins a table for about so many claims. Its id is the time, or a higher number than the
-- last one's. Its index is an eighth to a quarter larger than 2.5 slots a claim: a size of which
-- the servers' allocator wastes nothing.
local function open(expect)
  local wanted, size = math.min(10 * expect, 536870912), 4096
  while size * 2 <= wanted do size = size * 2 end
  size = math.min(size / 4 * math.max(4, math.ceil(wanted / size * 4)), 536870912)
  local chunk = 32768
  while chunk < 1048576 and chunk * 2 < size do chunk = chunk * 2 end
  local g = { id = math.max(now, tables[1] and tables[1].id + 1 or 0), start = now, slots = size / 4 - 16, chunk = chunk - 64, window = window, last = now, tail = 0, count = 0, known = 0,
    marks = { { now, 0, 0 } }, dead = 0, live = 0 }
  name(g)
  table.insert(tables, 1, g)
  return g
end

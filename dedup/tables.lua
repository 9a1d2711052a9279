-- The state of a window, common to all scripts: the Go side puts this text before each of them.
--
-- KEYS[1] is a string, the state. Its first line has what each claim changes: the layout, the
-- clock, how many tables were lost, and how much the newest table has. The second line is JSON, the
-- tables, newest first, and whether ids are stored as digests. A table has an index, the strings
-- <prefix><id>:i<k> of 4-byte slots, and a log, the strings <prefix><id>:<k> of <chunk> bytes each.
-- A claim is an entry of the log. It never moves, and its offset in the whole log identifies it. A
-- slot holds the offset of the newest entry whose id hashes to it. The hash is keyed with the
-- table's secret seed; the caller computes it, so it passes the slots of its ids in every table.
--
--   log    runs, none across the end of a chunk
--   run    8 bytes digest of the root, 6 bytes time in ms, 4 bytes first place, entries
--   entry  4 bytes offset of the next older entry of this slot (0: none), 2 bytes place after the
--          first one of the run, 2 bytes distance from the start of the run, 2 bytes length of the
--          id (0: given back), id
--
-- All numbers are big-endian. What is older than the window is skipped, and its chunks expire; a
-- slot may still point there. A table is replaced when it is too full, too empty or crowded, when
-- its log has 4 GB, or when the window changes. The old one is searched as long as it has claims of
-- the window.
--
-- KEYS[2] never exists: while its slot moves to another node of a cluster, a node refuses a script
-- of which some keys are there and others are not. Without it the script would end in the middle,
-- at the first key that has moved.
local STATE = KEYS[1]
local LAYOUT = 1
local HEAD, ENTRY = 18, 10 -- bytes of the head of a run, and of an entry without its id
local SLOTS_PER_CLAIM = 2.5
local SPARE = 64 -- bytes that the allocator needs in addition to a string of a round size
local MIN_INDEX, MAX_INDEX = 4096, 536870912 -- bytes
local MAX_SEGMENT = 12582912 -- bytes of the index that are made at once: 3 ms
local MIN_CHUNK, MAX_CHUNK = 32768, 1048576 -- bytes
local MAX_LOG = 4294967295 -- the offset of an entry has 4 bytes
local MAX_CHAIN = 32 -- entries of one slot: more of them never happen by chance
local LIFE = 1.125 -- windows that a key outlives its last use
local STAGGER = 100 -- ms between the expiry of two segments of an index
-- Marks are three numbers each: a time, the tail of the log and the claims made until then.
local MARK = 3
local MAX_SEGMENTS, MAX_TABLES, MAX_MARKS = math.ceil(MAX_INDEX / MAX_SEGMENT), 1000, 3000 -- bounds of a state

local window, prefix, expected = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local digest, new_seed = ARGV[4], ARGV[5]
local call, sub, byte, char = redis.call, string.sub, string.byte, string.char
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min

local function decimal(n) return string.format('%.0f', n) end

-- The first line of the state. The layout comes first, in every layout.
local LINE = '%d %d %d %d %d %d %d %d\n'
local LINE_PATTERN = '^' .. string.gsub(LINE, '%%d', '(%%d+)')

-- isTable reports whether a description of a table is one that save writes. Another program may
-- have changed any number of it, and a script must not end in its middle.
local function isTable(g, wall)
  local function within(v, low, high) return type(v) == 'number' and v == floor(v) and v >= low and v <= high end
  local latest = wall + MAX_AHEAD_MS
  if type(g) ~= 'table' or type(g.id) ~= 'string' or not number(g.id) or type(g.seed) ~= 'string' or not string.find(g.seed, '^%x+$') or #g.seed ~= 32 then return false end
  if not (within(g.start, 0, latest) and within(g.window, 1, MAX_AHEAD_MS) and within(g.last, 0, latest)
      and within(g.segments, 1, MAX_SEGMENTS) and within(g.slots, g.segments, g.segments * MAX_SEGMENT / 4) and g.slots % g.segments == 0
      and within(g.built, 0, g.segments) and within(g.chunk, HEAD + ENTRY, MAX_CHUNK) and within(g.tail, 0, MAX_LOG)
      and within(g.count, 0, MAX_NUMBER) and within(g.known, 0, 100)) then return false end
  local marks = g.marks
  if type(marks) ~= 'table' or #marks < MARK or #marks % MARK ~= 0 or #marks > MAX_MARKS then return false end
  for i = 1, #marks, MARK do
    if not (within(marks[i], 0, latest) and within(marks[i + 1], 0, MAX_LOG) and within(marks[i + 2], 0, MAX_NUMBER)) then return false end
  end
  return true
end

local state = { wall = 0, ahead = 0, lost = 0, digest = digest, tables = {} }
local stored = call('GET', STATE)
local body -- the second line, while it is unchanged
if stored then
  local layout = string.match(stored, '^(%d+) ')
  if layout and number(layout) ~= LAYOUT then return redis.error_reply('HEADRACE LAYOUT ' .. layout) end
  local _, last, _, wall, ahead, lost, at, tail, count, known = string.find(stored, LINE_PATTERN)
  local parsed, found
  if last then
    body = sub(stored, last + 1)
    parsed, found = pcall(cjson.decode, body)
  end
  if not parsed or type(found) ~= 'table' or type(found.tables) ~= 'table' or not found.tables[1]
      or found.digest ~= 'true' and found.digest ~= 'false' then
    return redis.error_reply('HEADRACE DAMAGED ' .. STATE .. ' is not the state of a window')
  end
  state.wall, state.ahead, state.lost = number(wall), number(ahead), number(lost)
  state.digest, state.tables = found.digest, found.tables
  local g = state.tables[1]
  if type(g) == 'table' then g.last, g.tail, g.count, g.known = number(at), number(tail), number(count), number(known) end
end
local tables = state.tables

-- now is the clock of the window. It is as far ahead of the server's as that was ever set back, so
-- it never runs backwards, and claims age at once again. When the server's clock jumps by at least
-- as much, it was set right again.
local time = call('TIME')
local wall = time[1] * 1000 + floor(time[2] / 1000)
local sound = state.wall and isTime(state.wall, wall) and state.ahead and state.ahead <= MAX_AHEAD_MS and state.lost and #tables <= MAX_TABLES
for i = 1, sound and #tables or 0 do sound = sound and isTable(tables[i], wall + state.ahead) end
if not sound then return redis.error_reply('HEADRACE DAMAGED ' .. STATE .. ' is not the state of a window') end
local gap = wall - state.wall
local set_back = gap < 0
if set_back then
  state.ahead = state.ahead - gap
elseif state.ahead > 0 and gap >= state.ahead then
  state.ahead = 0
end
state.wall = wall
local now = wall + state.ahead

-- counted returns how many claims a table had made at a time. It is an estimate between two marks.
local function counted(g, at)
  local marks, i = g.marks, #g.marks - MARK + 1
  local to_time, to_count = g.last, g.count
  while i >= 1 and marks[i] > at do
    to_time, to_count = marks[i], marks[i + 2]
    i = i - MARK
  end
  if i < 1 then return 0 end
  if to_time <= at then return to_count end
  return marks[i + 2] + (to_count - marks[i + 2]) * (at - marks[i]) / (to_time - marks[i])
end

-- complete adds what is not stored: the names of a table's keys, which entries have left the
-- window, and how many claims are in it.
local function complete(g)
  g.log = prefix .. g.id .. ':'
  g.index = {}
  for k = 1, g.segments do g.index[k] = g.log .. 'i' .. (k - 1) end
  g.chunks, g.heads = {}, {}
  local edge, marks = now - g.window, g.marks
  while marks[1 + MARK] and marks[1 + MARK] <= edge do
    for _ = 1, MARK do table.remove(marks, 1) end
    body = nil
  end
  g.dead = marks[1] <= edge and marks[2] or 0 -- entries before this offset have left the window
  g.live = max(0, g.count - counted(g, edge))
end

local live = 0 -- an estimate of the claims in the window
for i = #tables, 1, -1 do
  local g = tables[i]
  if g.last + g.window <= now then
    table.remove(tables, i)
    body = nil
  else
    complete(g)
    live = live + g.live
  end
end
if tables[1] and state.digest ~= digest then return redis.error_reply('HEADRACE DIGEST ' .. state.digest) end
state.digest = digest

local function u32(s, i)
  local a, b, c, d = byte(s, i, i + 3)
  return ((a * 256 + b) * 256 + c) * 256 + d
end

local function be32(v)
  return char(floor(v / 16777216), floor(v / 65536) % 256, floor(v / 256) % 256, v % 256)
end

-- list reads a MessagePack array of 32-bit numbers or of strings of up to 31 bytes, also in an
-- emulation that lacks cmsgpack.
local has_unpack, msgpack = pcall(function() return cmsgpack end)
local function list(s)
  if s == '' then return nil end
  if has_unpack then return msgpack.unpack(s) end
  local out, i = {}, 6
  while i <= #s do
    local tag = byte(s, i)
    if tag == 0xce then
      out[#out + 1] = u32(s, i + 1)
      i = i + 5
    else
      out[#out + 1] = sub(s, i + 1, i + tag - 0xa0)
      i = i + 1 + tag - 0xa0
    end
  end
  return out
end

-- bitfield runs BITFIELD, or does the same by other commands where the server lacks it. args are
-- its arguments, n their number, and size the number of arguments of each operation.
local function bitfield(command, args, n, size)
  local got = redis.pcall(command, unpack(args, 1, n))
  if not got.err then return got end
  if not string.find(got.err, 'nknown') then error(got.err, 0) end
  got = {}
  for i = 2, n, size do
    local o = args[i + 2] / 8
    local v = call('GETRANGE', args[1], o, o + 3)
    got[#got + 1] = #v == 4 and u32(v, 1) or 0
    if size == 4 then call('SETRANGE', args[1], o, be32(args[i + 3])) end
  end
  return got
end

-- chunk returns the key of the chunk of a table that begins at an offset.
local function chunk(g, offset)
  local key = g.chunks[offset]
  if not key then
    key = g.log .. offset / g.chunk
    g.chunks[offset] = key
  end
  return key
end

-- ttl returns the time to live of a key of a table. Where the window's clock is ahead, the server's
-- may be set right again, and the key must outlive that.
local function ttl(g) return decimal(ceil(g.window * LIFE) + state.ahead) end

-- segment_ttl returns that of a segment of the index. They expire one after the other: the server
-- frees each at once.
local function segment_ttl(g, k) return decimal(ceil(g.window * LIFE) + state.ahead + (k - 1) * STAGGER) end

-- head returns the head of the run that begins at an offset.
local function head(g, offset)
  local run = g.heads[offset]
  if not run then
    local o = offset % g.chunk
    run = call('GETRANGE', chunk(g, offset - o), o, o + HEAD - 1)
    g.heads[offset] = run
  end
  return run
end

-- find looks for a claim of the window in the entries from offset p on. want is the id with its
-- length before it. It returns the offset of the claim, the root's digest and the place that hold
-- the id, and when they claimed it.
local crowded = {} -- tables with a slot of more than MAX_CHAIN entries
local function find(g, p, want)
  local size, length, steps = #want, g.chunk, 0
  while p > 0 and p >= g.dead do
    local o = p % length
    local e = call('GETRANGE', g.chunks[p - o] or chunk(g, p - o), o, o + 7 + size)
    if #e < 8 then return end -- the chunk has expired, and all that is older with it
    if sub(e, 9) == want then
      local a, b, c, d = byte(e, 5, 8)
      local run = head(g, p - c * 256 - d)
      if #run < HEAD then return end
      local hi, lo = byte(run, 9, 10)
      local at = (hi * 256 + lo) * 4294967296 + u32(run, 11)
      if at + g.window <= now then return end
      return p, sub(run, 1, 8), u32(run, 15) + a * 256 + b, at
    end
    local older = u32(e, 1)
    if older >= p then return end -- another program has overwritten the entry
    p = older
    steps = steps + 1
  end
  if steps > MAX_CHAIN then crowded[g] = true end
end

-- encode returns the second line of the state. What the first line has of the newest table is not
-- in it.
local function encode()
  local all = {}
  for i = 1, #tables do
    local g = tables[i]
    local t = {
      id = g.id, seed = g.seed, start = g.start, window = g.window, segments = g.segments, slots = g.slots, built = g.built,
      chunk = g.chunk, marks = g.marks,
    }
    if i > 1 then t.last, t.tail, t.count, t.known = g.last, g.tail, g.count, g.known end
    all[i] = t
  end
  return cjson.encode({ digest = state.digest, tables = all })
end

-- save writes the state. body must be nil if more has changed than the first line has.
local function save()
  local g, last = tables[1], now
  for i = 1, #tables do last = max(last, tables[i].last + tables[i].window) end
  if last == now then
    call('DEL', STATE)
    return
  end
  body = body or encode()
  local line = string.format(LINE, LAYOUT, wall, state.ahead, state.lost, g.last, g.tail, g.count, g.known)
  call('SET', STATE, line .. body, 'PX', decimal(last - now + 1000 + state.ahead))
end

if set_back then save() end -- also in a script that only reads

-- drop_lost drops tables whose index was deleted or evicted: their claims are forgotten. It reports
-- whether there were any.
local function drop_lost()
  local before = #tables
  for i = before, 1, -1 do
    local g = tables[i]
    if g.built == g.segments and call('EXISTS', unpack(g.index)) < g.segments then
      table.remove(tables, i)
      state.lost, body = state.lost + 1, nil
    end
  end
  return #tables < before
end

-- open creates a table sized for the expected claims. It is the newest table, so it takes the next
-- claims. Its id is the time, or a higher number than the last one's. Its index is an eighth to a
-- quarter larger than needed: a size of which the server's allocator wastes nothing. build makes
-- the index.
local function open(claims)
  local wanted, size = min(4 * SLOTS_PER_CLAIM * claims, MAX_INDEX), MIN_INDEX
  while size * 2 <= wanted do size = size * 2 end
  size = min(size / 4 * max(4, ceil(wanted / size * 4)), MAX_INDEX)
  local length = MIN_CHUNK
  while length < MAX_CHUNK and length * 2 < size do length = length * 2 end
  local segments = ceil(size / MAX_SEGMENT)
  local g = {
    id = decimal(max(now, tables[1] and tables[1].id + 1 or 0)), seed = new_seed, start = now, window = window,
    segments = segments, slots = segments * floor((size / segments - SPARE) / 4), built = 0,
    chunk = length - SPARE, last = now, tail = 0, count = 0, known = 0, marks = { now, 0, 0 },
  }
  complete(g)
  table.insert(tables, 1, g)
  body = nil
  return g
end

-- build makes the next segment of the index of a table. All of it at once: a string that grows
-- takes twice what it needs.
local function build(g)
  g.built = g.built + 1
  body = nil
  call('SETRANGE', g.index[g.built], g.slots / g.segments * 4 - 1, '\0')
  call('PEXPIRE', g.index[g.built], segment_ttl(g, g.built))
end

-- again is the reply to a caller that does not know the tables: it must send the slots of its ids
-- in each of them.
local function again()
  local reply = { 'again' }
  for i = 1, #tables do
    local g = tables[i]
    for _, v in ipairs({ g.id, g.seed, g.slots, g.segments }) do reply[#reply + 1] = v end
  end
  return reply
end

-- place_ids gives each table the slots of the ids: ARGV[at] has the ids of the tables that the
-- caller knows, joined by commas, and two arguments for each follow: the bit offset of each slot in
-- its segment, and the segment of each ('' if there is one only). It reports whether the caller
-- knows all tables, and returns the argument after them.
local function place_ids(at)
  local known, n = {}, at
  for id in string.gmatch(ARGV[at], '[^,]+') do
    known[id] = n + 1
    n = n + 2
  end
  for i = 1, #tables do
    local g = tables[i]
    local from = known[g.id]
    if not from then return false, n + 1 end
    g.offsets, g.segment = list(ARGV[from]), list(ARGV[from + 1])
  end
  return true, n + 1
end

-- read_slots returns the newest entries of the slots of ids first…last in a table, 0 for none,
-- except for the ids in skip.
local function read_slots(g, first, last, skip)
  local entries, args, fill, ids = {}, {}, {}, {}
  for k = 1, g.segments do args[k], fill[k], ids[k] = { g.index[k] }, 1, {} end
  for j = first, last do
    if not (skip and skip[j]) then
      local k = g.segment and g.segment[j] or 1
      local a, n, id = args[k], fill[k], ids[k]
      -- One by one, in this order: a table that is filled in another order has no array part.
      a[n + 1] = 'GET'
      a[n + 2] = 'u32'
      a[n + 3] = g.offsets[j]
      fill[k], id[#id + 1] = n + 3, j
    end
  end
  for k = 1, g.segments do
    if fill[k] > 1 then
      local got = bitfield('BITFIELD_RO', args[k], fill[k], 3)
      for x, j in ipairs(ids[k]) do entries[j] = got[x] end
    end
  end
  return entries
end

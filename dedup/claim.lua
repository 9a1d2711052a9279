-- Claims ids by place. KEYS[3], if any, is the guard. ARGV[4] = number of records of the batch,
-- ARGV[5] = a mask, one byte a record, '1' for those that are claimed here ('' = all), ARGV[6] =
-- digest of the root, ARGV[7] = the runs, two numbers each: ids, first place, ARGV[8] = hashes of
-- the ids, ARGV[9] = their lengths, or one for all, ARGV[10…] = the entries of each run. Replies
-- one byte an id, 'f'resh or 'd'uplicate; nil when the guard is gone.
local guard, records, mask, root = KEYS[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local runs, hashes, lens = ints(ARGV[7]), ints(ARGV[8]), ints(ARGV[9])
local n = #hashes

-- The verdict is given once: what was said before is said again, whatever the window holds by now.
local stored
if guard then
  if call('EXISTS', guard) == 0 then return false end
  stored = call('HGET', guard, 'r:dedup')
  if stored and #stored ~= records then
    return redis.error_reply('HEADRACE the guard keeps ' .. #stored .. ' verdicts for ' .. records .. ' records')
  end
end

-- A longer window takes effect at once, or its first claims would end too early; a shorter one not,
-- or two processes with different settings would open a table at each call. A run takes at most
-- 8,018 bytes of the log, and leaves as many unused at the end of a chunk.
local expect = math.max(tonumber(ARGV[3]), n)
local g = tables[1]
if not g then
  g = open(expect)
else
  local age = now - g.start
  local full = g.live >= g.slots * 0.6 or g.live + n > g.slots * 2
  if full and g.slots < 134217712 or g.tail + (#ARGV - 9) * 16384 + g.chunk > 4294967295 then
    g = open(math.max(expect, n + live * math.max(full and 2 or 1.25, age < g.window and math.min(8, g.window / (age + 1)) or 1)))
  elseif window > g.window or (window < g.window and age >= g.window / 4)
      or (age >= 2 * g.window and live * 16 < g.slots and expect * 16 < g.slots) then
    g = open(math.max(expect, live * 1.25))
  end
end
-- The expiry of what is written now is set once between two marks, so that it needs no command a
-- call.
local expire = string.format('%.0f', math.ceil(now + g.window * 1.125))
if now - g.marks[#g.marks][1] >= g.window / 8 then
  g.marks[#g.marks + 1] = { now, g.tail, g.count }
  call('PEXPIREAT', g.index, expire)
  call('PEXPIREAT', chunk(g, g.tail - g.tail % g.chunk), expire)
end
g.last = now

-- pos[j] is the record of the j-th id.
local pos
if mask ~= '' then
  pos = {}
  local at = 0
  for j = 1, n do
    at = string.find(mask, '1', at + 1, true)
    pos[j] = at
  end
end

local verdict, asked, known = {}, 0, 0
local same = #lens == 1 and lens[1]
local stamp = char(floor(now / 1099511627776), floor(now / 4294967296) % 256) .. be32(now % 4294967296)
-- Arguments of BITFIELD. One by one, in this order: a table that is filled in another order has no
-- array, and costs three times as much.
local get, set, fix = {}, { g.index }, {}
for k = 2, 4 * math.min(n, 1000), 4 do
  set[k] = 'SET'
  set[k + 1] = 'u32'
  set[k + 2] = 0
  set[k + 3] = 0
end

-- claim gives the ids first…last a verdict. blob has their entries, and place is the run's first.
local function claim(first, last, place, blob)
  local left = last - first + 1 -- ids that nothing has been said of
  if stored then
    for j = first, last do
      local i = pos and pos[j] or j
      local said = sub(stored, i, i)
      if said ~= '-' then
        verdict[j] = said
        left = left - 1
      end
    end
  end
  asked = asked + left

  -- look asks for the claim that holds id j, whose entry is at byte e of blob, from offset p of
  -- table t on.
  local function look(j, e, l, t, p)
    local found, by, where = find(t, p, sub(blob, e + 8, e + 9 + l))
    if not found then return false end
    local a, b = byte(blob, e + 4, e + 5)
    verdict[j] = by == root and where == place + a * 256 + b and 'f' or 'd'
    known = known + 1
    return true
  end

  -- The tables that take no more claims. The newest one too where many ids are known: below, each
  -- of those costs an entry.
  for i = g.known > 12 and 1 or 2, #tables do
    local t, k = tables[i], 2
    get[1] = t.index
    for j = first, last do
      if not verdict[j] then
        get[k] = 'GET'
        get[k + 1] = 'u32'
        get[k + 2] = hashes[j] % t.slots * 32
        k = k + 3
      end
    end
    if k == 2 then return end
    local head, x, e = slots('BITFIELD_RO', get, k - 1, 3), 0, 1
    for j = first, last do
      local l = same or lens[j]
      if not verdict[j] then
        x = x + 1
        local p = head[x]
        if p > 0 and p >= t.dead and look(j, e, l, t, p) then left = left - 1 end
      end
      e = e + 10 + l
    end
  end
  if left == 0 then return end

  local text = blob
  if left < last - first + 1 then
    local parts, e, o = {}, 1, 18
    for j = first, last do
      local l = same or lens[j]
      if not verdict[j] then
        parts[#parts + 1] = '\0\0\0\0' .. sub(blob, e + 4, e + 5) .. char(floor(o / 256), o % 256) .. sub(blob, e + 8, e + 9 + l)
        o = o + 10 + l
      end
      e = e + 10 + l
    end
    text = table.concat(parts)
  end

  local o = g.tail % g.chunk
  if o + 18 + #text > g.chunk then
    g.tail = g.tail - o + g.chunk
    o = 0
  end
  local base = g.tail
  local key = chunk(g, base - o)
  -- All of it at once: a string that grows takes twice what it needs.
  if o == 0 then
    call('SETRANGE', key, g.chunk - 1, '\0')
    call('PEXPIREAT', key, expire)
  end
  if base == 0 then
    call('SETRANGE', g.index, g.slots * 4 - 1, '\0')
    call('PEXPIREAT', g.index, expire)
  end
  if call('SETRANGE', key, o, root .. stamp .. be32(place)) < g.chunk then
    call('PEXPIREAT', key, expire) -- the server had evicted it
  end
  call('SETRANGE', key, o + 18, text)

  -- Each id puts its entry before those of its slot, and then looks whether one of them holds it.
  local p, k, m = base + 18, 4, g.slots
  for j = first, last do
    if not verdict[j] then
      set[k] = hashes[j] % m * 32
      set[k + 1] = p
      k = k + 4
      p = p + 10 + (same or lens[j])
    end
  end
  local was = slots('BITFIELD', set, k - 3, 4)
  local slot, older, fresh, dead = {}, {}, 0, math.max(1, g.dead) -- slot and older: of the entries that are given back, by offset
  fix[1], k = key, 2
  local function link() -- writes which entry is the next older one
    if k > 2 then slots('BITFIELD', fix, k - 1, 4) end
    k = 2
  end
  local x, e, length, keys = 0, 1, g.chunk, g.keys
  p = base + 18
  for j = first, last do
    local l = same or lens[j]
    if not verdict[j] then
      x = x + 1
      local before, held = was[x], false
      if before >= dead then
        if before >= base then
          link()
          if slot[before] then -- another id of this call, of the same slot, and given back
            slot[before] = nil
            before = older[before]
          end
        end
        -- Mostly it is another id's, and the only one. What was given back is left out of the
        -- slot's entries for good.
        local it
        repeat
          local c = before % length
          it = call('GETRANGE', keys[before - c] or chunk(g, before - c), c, c + 9 + l)
          local x, y = byte(it, 9, 10)
          local gone = x == 0 and y == 0
          if gone then before = u32(it, 1) end
        until not gone or before < dead
        if byte(it, -1) == byte(blob, e + 9 + l) or (#it > 3 and u32(it, 1) >= dead) then held = look(j, e, l, g, before) end
        if held then
          slot[p], older[p] = set[4 * x], before
        else
          fix[k] = 'SET'
          fix[k + 1] = 'u32'
          fix[k + 2] = (o + p - base) * 8
          fix[k + 3] = before
          k = k + 4
        end
      end
      if not held then fresh = fresh + 1 end
      p = p + 10 + l
    end
    e = e + 10 + l
  end
  link()
  -- What is given back leaves its slot as it was, or a slot would grow with each copy of an id.
  local undo, u = { g.index }, 1
  for offset, s in pairs(slot) do
    undo[u + 1] = 'SET'
    undo[u + 2] = 'u32'
    undo[u + 3] = s
    undo[u + 4] = older[offset]
    u = u + 4
  end
  if u > 1 then slots('BITFIELD', undo, u, 4) end
  if fresh > 0 then g.tail = p end
  g.count = g.count + fresh
end

local j = 1
for r = 1, #runs, 2 do
  claim(j, j + runs[r] - 1, runs[r + 1], ARGV[9.5 + r / 2])
  j = j + runs[r]
end
-- It falls slowly: a stream that is replayed beside a live one comes by turns with it.
if asked > 0 then g.known = math.max(floor(100 * known / asked), floor(g.known * 0.9)) end
save()

-- Joined in pieces: an emulation of Lua that keeps its stack small fails on one call with
-- thousands.
local function join(list, size)
  local parts = {}
  for i = 1, size, 1000 do parts[#parts + 1] = table.concat(list, '', i, math.min(i + 999, size)) end
  return table.concat(parts)
end
local reply
if next(verdict) then
  for j = 1, n do verdict[j] = verdict[j] or 'f' end
  reply = join(verdict, n)
else
  reply = string.rep('f', n)
end
if guard then
  local all = reply
  if pos then
    local said = {}
    for i = 1, records do said[i] = stored and sub(stored, i, i) or '-' end
    for j = 1, n do said[pos[j]] = sub(reply, j, j) end
    all = join(said, records)
  end
  -- Also when nothing in it is new: strict mode's WAITAOF waits for a write of this connection.
  call('HSET', guard, 'r:dedup', all)
end
return reply

-- Claims ids by place. KEYS[3], if any, is the guard. ARGV[6] = number of records of the batch,
-- ARGV[7] = the first record of this call, ARGV[8] = a mask, one byte a record from there, '1' for
-- those that are claimed here ('' = all), ARGV[9] = digest of the root, ARGV[10] = the runs, two
-- numbers each: ids, first place, ARGV[11] = the lengths of the ids, or one for all, ARGV[12…] =
-- their slots, see place_ids, and then the entries of each run.
--
-- Replies 'again' (see there), 'gone' when the guard is, or 'ok' and one byte an id, 'f'resh or
-- 'd'uplicate.
local GUARD, FIELD = KEYS[3], 'r:dedup'
local FRESH, DUPLICATE, UNKNOWN = 'f', 'd', '-'
local AT_ONCE = 1000 -- ids of one BITFIELD
local MAX_LOAD = 0.6 -- claims a slot, above which a larger table takes the claims
local GROWTH, SLACK, HEADROOM = 2, 1.25, 8 -- of a full table, of any other, at most by the rate of its claims
local SHRINK_BY = 16 -- a table that much too large gives way to a smaller one
local MANY_KNOWN = 12 -- percent of known ids, above which slots are read before they are written
local MARKS = 8 -- in a window

local records, first_record, mask, root = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], ARGV[9]
local runs, lengths = list(ARGV[10]), list(ARGV[11])
local n = 0
for r = 1, #runs, 2 do n = n + runs[r] end
local span = mask == '' and n or #mask

-- A verdict is final: what was stored is returned, whatever the window holds by now.
local stored
if GUARD then
  if call('EXISTS', GUARD) == 0 then return { 'gone' } end
  stored = call('HGET', GUARD, FIELD)
  if stored and #stored ~= records then
    return redis.error_reply('HEADRACE VERDICTS the guard has ' .. #stored .. ' verdicts for ' .. records .. ' records')
  end
  if stored and string.find(stored, '[^fd-]') then
    return redis.error_reply('HEADRACE VERDICTS the field ' .. FIELD .. ' of the guard holds other bytes than verdicts')
  end
end

-- choose opens another table if the newest must not take the claims. A longer window takes effect
-- at once, or its first claims would end too early. A shorter one does not, or two processes with
-- different settings would open a table at each call.
local function choose()
  local g, wanted = tables[1], max(expected, n)
  if not g then
    open(wanted)
    return
  end
  local age = now - g.start
  local full = g.live >= g.slots * MAX_LOAD or g.live + n > g.slots * 2
  -- A run never crosses the end of a chunk, so each may leave as much unused as it has.
  local ends = g.tail + #runs / 2 * 2 * (HEAD + 8192) + g.chunk > MAX_LOG
  if full and g.slots * 4 < MAX_INDEX * 0.99 or ends then
    local rate = age < g.window and min(HEADROOM, g.window / (age + 1)) or 1
    open(max(wanted, n + live * max(full and GROWTH or SLACK, rate)))
  elseif window > g.window or (window < g.window and age >= g.window / 4)
      or (age >= 2 * g.window and live * SHRINK_BY < g.slots and expected * SHRINK_BY < g.slots) then
    open(max(wanted, live * SLACK))
  end
end

needs('BITFIELD', 'BITFIELD_RO', 'DEL', 'EXISTS', 'GETRANGE', 'PEXPIRE', 'SET', 'SETRANGE')
if GUARD then needs('HSET') end
drop_lost()
choose()
local g = tables[1]
if g.built < g.segments then
  build(g)
  save()
  return again()
end
local placed, first_run = place_ids(12)
if not placed then return again() end

-- mark counts at one moment of the window, and gives what is written until the next one its expiry,
-- so that this needs no command a call.
local expire = ttl(g)
if now - g.marks[#g.marks - MARK + 1] >= g.window / MARKS then
  for _, v in ipairs({ now, g.tail, g.count }) do g.marks[#g.marks + 1] = v end
  body = nil
  for k = 1, g.segments do call('PEXPIRE', g.index[k], segment_ttl(g, k)) end
  call('PEXPIRE', chunk(g, g.tail - g.tail % g.chunk), expire)
end
g.last = now

-- record[j] is the record of id j, from 1, counted from the first one of this call.
local record
if mask ~= '' then
  record = {}
  local at = 0
  for j = 1, n do
    at = string.find(mask, '1', at + 1, true)
    record[j] = at
  end
end

local verdict, asked, known = {}, 0, 0
local same = #lengths == 1 and lengths[1]
local stamp = char(floor(now / 1099511627776), floor(now / 4294967296) % 256) .. be32(now % 4294967296)

-- A run is {first, last, place, text}: its ids, the place of the first one, its entries.

-- recall gives the ids of a run their stored verdicts, and returns how many have none.
local function recall(run)
  local left = run.last - run.first + 1
  if not stored then return left end
  for j = run.first, run.last do
    local i = first_record + (record and record[j] or j)
    local v = sub(stored, i, i)
    if v ~= UNKNOWN then
      verdict[j] = v
      left = left - 1
    end
  end
  return left
end

-- look gives id j, whose entry begins at byte e of the text, the verdict of the claim that holds
-- it, if there is one in the entries of a table from offset p on.
local function look(run, j, e, length, t, p)
  local held, by, place = find(t, p, sub(run.text, e + 8, e + 9 + length))
  if not held then return false end
  local a, b = byte(run.text, e + 4, e + 5)
  verdict[j] = by == root and place == run.place + a * 256 + b and FRESH or DUPLICATE
  known = known + 1
  return true
end

-- search looks in a table for the ids of a run without a verdict, and returns how many it found.
local function search(run, t)
  local newest = read_slots(t, run.first, run.last, verdict)
  local found, e = 0, 1
  for j = run.first, run.last do
    local length = same or lengths[j]
    local p = newest[j]
    if p and p > 0 and p >= t.dead and look(run, j, e, length, t, p) then found = found + 1 end
    e = e + ENTRY + length
  end
  return found
end

-- undecided returns the entries of the ids without a verdict.
local function undecided(run)
  local parts, e, distance = {}, 1, HEAD
  for j = run.first, run.last do
    local length = same or lengths[j]
    if not verdict[j] then
      parts[#parts + 1] = '\0\0\0\0' .. sub(run.text, e + 4, e + 5) .. char(floor(distance / 256), distance % 256)
          .. sub(run.text, e + 8, e + 9 + length)
      distance = distance + ENTRY + length
    end
    e = e + ENTRY + length
  end
  return table.concat(parts)
end

-- append writes a run to the log, and returns the offset of its first entry.
local function append(run, entries)
  local o = g.tail % g.chunk
  if o + HEAD + #entries > g.chunk then
    g.tail = g.tail - o + g.chunk
    o = 0
  end
  local key = chunk(g, g.tail - o)
  if o == 0 then -- all of it at once, see build
    call('SETRANGE', key, g.chunk - 1, '\0')
    call('PEXPIRE', key, expire)
  end
  if call('SETRANGE', key, o, root .. stamp .. be32(run.place)) < g.chunk then
    call('PEXPIRE', key, expire) -- the chunk was deleted or evicted
  end
  call('SETRANGE', key, o + HEAD, entries)
  return g.tail + HEAD
end

-- The arguments of the BITFIELD that writes slots. They are made once, in ascending order: a table
-- that is filled in another order has no array part, and costs three times as much.
local set
if g.segments == 1 then
  set = { g.index[1] }
  for k = 2, 4 * min(n, AT_ONCE), 4 do
    set[k] = 'SET'
    set[k + 1] = 'u32'
    set[k + 2] = ''
    set[k + 3] = 0
  end
end

-- write_slots points the slots of the ids of a run without a verdict at their new entries, and
-- returns the entries that the slots held, in the order of the ids. p is the offset of the first
-- new entry.
local function write_slots(run, p)
  if g.segments == 1 then
    local offsets, k = g.offsets, 4
    for j = run.first, run.last do
      if not verdict[j] then
        set[k] = offsets[j]
        set[k + 1] = p
        k = k + 4
        p = p + ENTRY + (same or lengths[j])
      end
    end
    return bitfield('BITFIELD', set, k - 3, 4)
  end
  local args, fill, order = {}, {}, {}
  for k = 1, g.segments do args[k], fill[k] = { g.index[k] }, 1 end
  for j = run.first, run.last do
    if not verdict[j] then
      local k = g.segment[j]
      local a, size = args[k], fill[k]
      a[size + 1] = 'SET'
      a[size + 2] = 'u32'
      a[size + 3] = g.offsets[j]
      a[size + 4] = p
      fill[k] = size + 4
      order[#order + 1] = k
      p = p + ENTRY + (same or lengths[j])
    end
  end
  local got, at = {}, {}
  for k = 1, g.segments do
    got[k], at[k] = fill[k] > 1 and bitfield('BITFIELD', args[k], fill[k], 4) or {}, 0
  end
  local before = {}
  for x, k in ipairs(order) do
    at[k] = at[k] + 1
    before[x] = got[k][at[k]]
  end
  return before
end

-- restore gives slots back to their older entries, or a slot would grow with each copy of an id.
-- given has the id of each entry that is given back, by offset, and older the entry to put in its
-- place.
local function restore(given, older)
  local args, fill = {}, {}
  for p, j in pairs(given) do
    local k = g.segment and g.segment[j] or 1
    local a = args[k]
    if not a then
      a = { g.index[k] }
      args[k], fill[k] = a, 1
    end
    local size = fill[k]
    a[size + 1] = 'SET'
    a[size + 2] = 'u32'
    a[size + 3] = g.offsets[j]
    a[size + 4] = older[p]
    fill[k] = size + 4
  end
  for k, a in pairs(args) do bitfield('BITFIELD', a, fill[k], 4) end
end

-- resolve looks whether an older entry holds the id of a new one. before has what the slots held,
-- and base is the offset of the first new entry. It returns how many ids are fresh and where the
-- log ends.
local function resolve(run, base, before)
  local start = base - base % g.chunk
  local key, length, oldest = chunk(g, start), g.chunk, max(1, g.dead)
  local given, older, fresh = {}, {}, 0 -- see restore
  local links, size = { key }, 1 -- the new entries' offsets of the next older ones, not written yet
  local function write_links()
    if size > 1 then bitfield('BITFIELD', links, size, 4) end
    size = 1
  end
  local p, x, e = base, 0, 1
  for j = run.first, run.last do
    local bytes = same or lengths[j]
    if not verdict[j] then
      x = x + 1
      local q, held = before[x], false
      if q >= oldest then
        if q >= base then
          write_links()
          if given[q] then -- another id of this run, of the same slot, and given back
            given[q] = nil
            q = older[q]
          end
        end
        -- In most cases it is another id's entry, and the only one. An entry that was given back
        -- leaves the slot for good.
        local it
        repeat
          local o = q % length
          it = call('GETRANGE', g.chunks[q - o] or chunk(g, q - o), o, o + 9 + bytes)
          local a, b = byte(it, 9, 10)
          local gone = a == 0 and b == 0
          local older = gone and u32(it, 1) or q
          if older >= q then gone = false else q = older end -- never upwards: the entry was overwritten
        until not gone or q < oldest
        if byte(it, -1) == byte(run.text, e + 9 + bytes) or (#it > 3 and u32(it, 1) >= oldest) then
          held = look(run, j, e, bytes, g, q)
        end
        if held then
          given[p], older[p] = j, q
        else
          links[size + 1] = 'SET'
          links[size + 2] = 'u32'
          links[size + 3] = (p - start) * 8
          links[size + 4] = q
          size = size + 4
        end
      end
      if not held then fresh = fresh + 1 end
      p = p + ENTRY + bytes
    end
    e = e + ENTRY + bytes
  end
  write_links()
  restore(given, older)
  return fresh, p
end

-- claim gives the ids of a run a verdict.
local function claim(run)
  local left = recall(run)
  asked = asked + left
  -- The tables that take no more claims. The newest one too where many ids are known: each of those
  -- would cost an entry below.
  for i = g.known > MANY_KNOWN and 1 or 2, #tables do
    if left == 0 then return end
    left = left - search(run, tables[i])
  end
  if left == 0 then return end
  -- Each id puts its entry before those of its slot, and only then looks whether one of them holds
  -- it.
  local base = append(run, left == run.last - run.first + 1 and run.text or undecided(run))
  local fresh, tail = resolve(run, base, write_slots(run, base))
  if fresh > 0 then g.tail = tail end
  g.count = g.count + fresh
end

local at = 1
for r = 1, #runs, 2 do
  claim({ first = at, last = at + runs[r] - 1, place = runs[r + 1], text = ARGV[first_run + (r - 1) / 2] })
  at = at + runs[r]
  if crowded[g] then
    -- Ids that were chosen to share a slot. The next table has another seed, and the claims made so
    -- far stay where they are.
    open(max(expected, n, live * SLACK))
    build(tables[1])
    save()
    return again()
  end
end
-- It falls slowly: a stream that is replayed together with a live one takes turns with it.
if asked > 0 then g.known = max(floor(100 * known / asked), floor(g.known * 0.9)) end
save()

-- join concatenates in pieces: an emulation of Lua that keeps its stack small fails on thousands.
local function join(parts, size)
  local joined = {}
  for i = 1, size, AT_ONCE do joined[#joined + 1] = table.concat(parts, '', i, min(i + AT_ONCE - 1, size)) end
  return table.concat(joined)
end

local reply
if next(verdict) then
  for j = 1, n do verdict[j] = verdict[j] or FRESH end
  reply = join(verdict, n)
else
  reply = string.rep(FRESH, n)
end

-- store keeps the verdicts with the batch. It writes even if none is new: a durable claim waits for
-- a write of this connection.
local function store()
  local before = stored or string.rep(UNKNOWN, records)
  local mine = reply
  if record then
    local all = {}
    for i = 1, span do all[i] = sub(before, first_record + i, first_record + i) end
    for j = 1, n do all[record[j]] = sub(reply, j, j) end
    mine = join(all, span)
  end
  call('HSET', GUARD, FIELD, sub(before, 1, first_record) .. mine .. sub(before, first_record + span + 1))
end
if GUARD then store() end
return { 'ok', reply }

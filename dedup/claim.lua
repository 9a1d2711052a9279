-- Claims ids by place. KEYS[3], if any, is the guard. ARGV[4] = number of records of the batch, ARGV[5] = a mask, one
-- byte a record, '1' for those that are claimed here ('' = all), ARGV[6] = hashes of the ids, 24 binary digits each,
-- ARGV[7] = digests of the places, 8 bytes each, ARGV[8…] = ids. Replies one byte an id, 'f'resh or 'd'uplicate;
-- nil when the guard is gone.
local guard, n, mask, hashes, places = KEYS[3], #ARGV - 7, ARGV[5], ARGV[6], ARGV[7]
local records = tonumber(ARGV[4])

-- The verdict is given once: what was said before is said again, whatever the window holds by now.
local stored
if guard then
  if call('EXISTS', guard) == 0 then return false end
  stored = call('HGET', guard, 'r:dedup')
  if stored and #stored ~= records then
    return redis.error_reply('HEADRACE the guard keeps ' .. #stored .. ' verdicts for ' .. records .. ' records')
  end
end

-- Open a generation when there is none, when the newest one has run its time or is full, or when the configured
-- window or layout has changed. At most one a millisecond, for its start is its name; and for a change not at once, or
-- two processes with different settings would open one at each call.
local g = gens[1]
if not g or now - g.start >= g.window or (g.bits > 0 and g.count >= 128 * 2 ^ g.bits and g.bits < 24 and now > g.start)
    or ((g.window ~= window or (g.bits == 0) ~= (floorbits == 0)) and now - g.start >= g.window / 4) then
  local expect = 0
  if g then
    if now - g.start < g.window then -- full before its time: at this rate …, but no more than eightfold
      expect = math.min(8 * g.count, math.max(2 * g.count, g.count * g.window / (now - g.start + 1)))
    else
      for i = 1, #gens do
        if gens[i].start > now - 1.5 * g.window then expect = expect + gens[i].count end
      end
    end
  end
  local bits = floorbits
  while bits > 0 and bits < 24 and 96 * 2 ^ bits < expect do bits = bits + 1 end
  g = { start = now, bits = bits, count = 0, window = window, unit = math.max(1, math.ceil(window / 16777215)),
    prefix = prefix .. string.format('%.0f', now) .. ':' }
  table.insert(gens, 1, g)
end

local tick = floor((now - g.start) / g.unit)
local stamp = string.char(floor(tick / 65536), floor(tick / 256) % 256, tick % 256)
local expire = string.format('%.0f', g.start + 2 * g.window) -- no claim of this generation is in the window after that
local cur, last, older = g.prefix, g.bits - 1, #gens

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

local verdict, fresh = {}, 0

-- judge gives record j its verdict by v, the claim that holds its id.
local function judge(j, v)
  verdict[j] = sub(v, 1, 8) == sub(places, j * 8 - 7, j * 8) and 'f' or 'd'
end

-- One piece of the batch at a time: the servers' unpack takes some thousand values.
local function piece(from, to)
  local todo, ids = {}, {}
  for j = from, to do
    local p = pos and pos[j] or j
    local said = stored and sub(stored, p, p) or '-'
    if said == '-' then
      todo[#todo + 1] = j
      ids[#ids + 1] = ARGV[7 + j]
    else
      verdict[j] = said
    end
  end
  if #todo == 0 then return end

  for i = 2, older do
    local o = gens[i]
    if o.bits == 0 then
      local got = call('HMGET', o.prefix, unpack(ids))
      for x = 1, #todo do
        local v = got[x]
        if v and not verdict[todo[x]] and held(o, v) then judge(todo[x], v) end
      end
    else
      for x = 1, #todo do
        local j = todo[x]
        if not verdict[j] then
          local a = j * 24 - 23
          local v = call('HGET', o.prefix .. sub(hashes, a, a + o.bits - 1), ids[x])
          if v and held(o, v) then judge(j, v) end
        end
      end
    end
  end

  if g.bits == 0 then
    -- Backwards: of two equal ids the first one is written last, and so holds the id.
    local got, new, w = call('HMGET', cur, unpack(ids)), {}, 0
    for x = #todo, 1, -1 do
      local j = todo[x]
      if not verdict[j] and got[x] then judge(j, got[x]) end
      if not verdict[j] then
        new[w + 1], new[w + 2] = ids[x], sub(places, j * 8 - 7, j * 8) .. stamp
        w = w + 2
        verdict[j] = 'f'
      end
    end
    if w > 0 then
      local added = call('HSET', cur, unpack(new))
      fresh = fresh + added
      if added < w / 2 then -- some are equal
        local first = {}
        for x = 1, #todo do
          local j, id = todo[x], ids[x]
          if not got[x] and verdict[j] == 'f' then
            if first[id] then verdict[j] = 'd' end
            first[id] = true
          end
        end
      end
    end
  else
    local keys = {}
    for x = 1, #todo do
      local a = todo[x] * 24 - 23
      keys[x] = cur .. sub(hashes, a, a + last)
    end
    -- A bucket gets its expiry when it is made. Asking for all of them at once is cheaper than setting it each time.
    local made = call('EXISTS', unpack(keys)) < #keys
    for x = 1, #todo do
      local j = todo[x]
      if not verdict[j] then
        if call('HSETNX', keys[x], ids[x], sub(places, j * 8 - 7, j * 8) .. stamp) == 1 then
          fresh = fresh + 1
          if made then call('PEXPIREAT', keys[x], expire) end
          verdict[j] = 'f'
        else
          judge(j, call('HGET', keys[x], ids[x]))
        end
      end
    end
  end
end
local size = g.bits == 0 and 1000 or 200
for from = 1, n, size do piece(from, math.min(from + size - 1, n)) end
-- Each time: the hash may be new though the generation is not, when all that it held was undone.
if g.bits == 0 and fresh > 0 then call('PEXPIREAT', cur, expire) end

g.count = g.count + fresh
save()
-- Joined in pieces: an emulation of Lua that keeps its stack small fails on one call with thousands.
local function join(list, size)
  local parts = {}
  for i = 1, size, 1000 do parts[#parts + 1] = table.concat(list, '', i, math.min(i + 999, size)) end
  return table.concat(parts)
end
local reply = join(verdict, n)
if guard then
  local all = reply
  if pos then
    local said = {}
    for i = 1, records do said[i] = stored and sub(stored, i, i) or '-' end
    for j = 1, n do said[pos[j]] = verdict[j] end
    all = join(said, records)
  end
  -- Also when nothing in it is new: strict mode's WAITAOF waits for a write of this connection.
  call('HSET', guard, 'r:dedup', all)
end
return reply

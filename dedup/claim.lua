-- Claims ids by place. KEYS[2], if any, is the guard. ARGV[4] = number of records of the batch, ARGV[5] = a mask, one
-- byte a record, '1' for those that are claimed here ('' = all), ARGV[6] = hashes of the ids, 24 binary digits each,
-- ARGV[7] = digests of the places, 8 bytes each, ARGV[8…] = ids. Replies one byte an id, 'f'resh or 'd'uplicate;
-- nil when the guard is gone.
local guard, n, mask, hashes, places = KEYS[2], #ARGV - 7, ARGV[5], ARGV[6], ARGV[7]
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
-- window has changed (not at once: two processes with different settings must not open one at each call).
local g = gens[1]
if not g or now - g.start >= g.window or (g.count >= 128 * 2 ^ g.bits and g.bits < 24)
    or (g.window ~= window and now - g.start >= g.window / 4) then
  local expect = 0
  if g then
    if now - g.start < g.window then -- full before its time: at this rate …, but no more than eightfold
      expect = math.min(8 * g.count, math.max(2 * g.count, g.count * g.window / (now - g.start + 1)))
    else
      for i = 1, #gens do
        if gens[i].start > now - 1.5 * g.window then expect = expect + gens[i].count end
      end
    end
    if now <= g.start then now = g.start + 1 end
  end
  local bits = floorbits
  while bits < 24 and 96 * 2 ^ bits < expect do bits = bits + 1 end
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

local verdict, keys, fresh = {}, {}, 0
for j = 1, n do
  local a = j * 24 - 23
  keys[j] = cur .. sub(hashes, a, a + last)
end
local from = 1
while from <= n do
  local to = math.min(from + 199, n)
  -- A bucket gets its expiry when it is made. Asking for all of them at once is cheaper than setting it each time.
  local new = call('EXISTS', unpack(keys, from, to)) < to - from + 1
  for j = from, to do
    local said
    if stored then
      said = sub(stored, pos and pos[j] or j, pos and pos[j] or j)
      if said == '-' then said = nil end
    end
    if not said then
      local id, place, v = ARGV[7 + j], sub(places, j * 8 - 7, j * 8), false
      for i = 2, older do
        local o, a = gens[i], j * 24 - 23
        v = call('HGET', o.prefix .. sub(hashes, a, a + o.bits - 1), id)
        if v then
          if held(o, v) then break end
          v = false
        end
      end
      if not v then
        if call('HSETNX', keys[j], id, place .. stamp) == 1 then
          fresh = fresh + 1
          if new then call('PEXPIREAT', keys[j], expire) end
        else
          v = call('HGET', keys[j], id)
        end
      end
      said = (not v or sub(v, 1, 8) == place) and 'f' or 'd'
    end
    verdict[j] = said
  end
  from = to + 1
end

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

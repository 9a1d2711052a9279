-- Looks ids up. ARGV[4] = what for, ARGV[5] = hashes, ARGV[6] = lengths, or one for all, ARGV[7] =
-- the places that must hold them, 8 bytes digest of the root and 4 bytes place each ('' = whoever
-- does), ARGV[8] = the ids, each with its length before it. 'seen' replies one byte an id, '1' or
-- '0'; 'remove' takes those that it finds out of the window and replies how many; 'where' replies
-- the key and the offset of the length of each, '' and 0 where there is none.
local what, hashes, lens, places, ids = ARGV[4], ints(ARGV[5]), ints(ARGV[6]), ARGV[7], ARGV[8]
local n, at, count, out = #hashes, 1, 0, {}
for from = 1, n, 1000 do
  local to, head = math.min(from + 999, n), {}
  for i = 1, #tables do
    local g = tables[i]
    local get, k = { g.index }, 2
    for j = from, to do
      get[k] = 'GET'
      get[k + 1] = 'u32'
      get[k + 2] = hashes[j] % g.slots * 32
      k = k + 3
    end
    head[i] = slots('BITFIELD_RO', get, k - 1, 3)
  end
  for j = from, to do
    local l = lens[j] or lens[1]
    local want, key, offset = sub(ids, at, at + 1 + l), '', 0
    at = at + 2 + l
    for i = 1, #tables do
      local g = tables[i]
      local p, by, where = find(g, head[i][j - from + 1], want)
      if p then
        if places == '' or (by == sub(places, j * 12 - 11, j * 12 - 4) and where == u32(places, j * 12 - 3)) then
          local o = p % g.chunk
          key, offset = chunk(g, p - o), o + 8
          if what == 'remove' then call('SETRANGE', key, offset, '\0\0') end
        end
        break
      end
    end
    if key ~= '' then count = count + 1 end
    if what == 'seen' then
      out[j] = key ~= '' and '1' or '0'
    elseif what == 'where' then
      out[2 * j - 1], out[2 * j] = key, offset
    end
  end
end
if what == 'where' then return out end
if what == 'remove' then return count end
local parts = {}
for i = 1, n, 1000 do parts[#parts + 1] = table.concat(out, '', i, math.min(i + 999, n)) end
return table.concat(parts)

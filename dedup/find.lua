-- Looks ids up. ARGV[6] = what for, ARGV[7] = their lengths, or one for all, ARGV[8] = the places
-- that must hold them, 8 bytes digest of the root and 4 bytes place each ('' = any place), ARGV[9]
-- = the ids, each with its length before it, ARGV[10] = their number, ARGV[11…] = their slots, see
-- place_ids.
--
-- Replies 'again' (see there), or 'ok' and: for 'seen' one byte an id, '1' or '0'; for 'remove',
-- which takes the ids that it finds out of the window, their number; for 'where' the key and the
-- offset of the length of each, '' and 0 for one that is not there; for 'holder' the digest of the
-- root of each ('' for one that is not there), the place, and when it was claimed in milliseconds.
local what, lengths, places, ids, n = ARGV[6], list(ARGV[7]), ARGV[8], ARGV[9], tonumber(ARGV[10])
local AT_ONCE = 1000 -- ids of one BITFIELD
local PLACE = 12 -- bytes of a place

if what == 'remove' then needs('SETRANGE') end
if not place_ids(11) then return again() end

-- holder returns the key and the offset of the entry of id j in the newest table that has it, the
-- digest of its root, its place, and when it was claimed.
local function holder(j, want, newest)
  for i = 1, #tables do
    local g = tables[i]
    local p, root, place, claimed = find(g, newest[i][j], want)
    if p then
      local at = (j - 1) * PLACE
      if places ~= '' and (root ~= sub(places, at + 1, at + 8) or place ~= u32(places, at + 9)) then return end
      local o = p % g.chunk
      return chunk(g, p - o), o + 8, root, place, claimed
    end
  end
end

local found, out, gone, at = 0, {}, {}, 1
for first = 1, n, AT_ONCE do
  local last, newest = min(first + AT_ONCE - 1, n), {}
  for i = 1, #tables do newest[i] = read_slots(tables[i], first, last) end
  for j = first, last do
    local size = 2 + (lengths[j] or lengths[1])
    local key, offset, root, place, claimed = holder(j, sub(ids, at, at + size - 1), newest)
    at = at + size
    if key and not gone[key .. ' ' .. offset] then
      found = found + 1
      if what == 'remove' then gone[key .. ' ' .. offset] = { key, offset } end -- an id may come twice
    end
    if what == 'seen' then
      out[j] = key and '1' or '0'
    elseif what == 'where' then
      out[2 * j - 1], out[2 * j] = key or '', offset or 0
    elseif what == 'holder' then
      out[3 * j - 2], out[3 * j - 1], out[3 * j] = root or '', place or 0, claimed or 0
    end
  end
end
if what == 'where' or what == 'holder' then return { 'ok', out } end
-- All were read: a key of another type has ended the script before this.
for _, entry in pairs(gone) do call('SETRANGE', entry[1], entry[2], '\0\0') end
if what == 'remove' then return { 'ok', found } end
local parts = {}
for i = 1, n, AT_ONCE do parts[#parts + 1] = table.concat(out, '', i, min(i + AT_ONCE - 1, n)) end
return { 'ok', table.concat(parts) }

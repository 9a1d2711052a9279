-- Reads a page of dead letters, newest first, each payload cut to a number of bytes. It writes
-- nothing, and looks at no more letters than it is told to.
-- ARGV: prefix, time and id of the last letter of the page before ('+inf' and '' at first), letters
-- wanted, letters looked at, bytes, a part of the reason ('' takes all), the id of the one letter
-- that is wanted ('' for a page).
-- Returns the time and id of the last letter that it looked at ('' if there are no more), and the
-- letters: id, time of death, length of the payload, its beginning, and the other fields.
local prefix, from, last = ARGV[1], ARGV[2], ARGV[3]
local wanted, most, bytes = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local reason, single = ARGV[7], ARGV[8]
local FIELDS = {'p', 'root', 'off', 'reason', 'att', 'fails', 'crashes', 'first'}

-- read returns a letter.
local function read(id, died)
  local fields = redis.call('HMGET', prefix .. 'd:' .. id, unpack(FIELDS))
  for f = 1, #FIELDS do fields[f] = fields[f] or '' end
  local payload = fields[1]
  fields[1] = string.sub(payload, 1, bytes)
  return {id, died, #payload, fields}
end

if single ~= '' then
  local died = redis.call('ZSCORE', KEYS[1], single)
  return {'', '', died and {read(single, died)} or {}}
end

local letters, died, id = {}, '', ''
local skip = 0
repeat -- letters of one millisecond may fill more than one part
  local members = redis.call('ZRANGE', KEYS[1], from, '-inf', 'BYSCORE', 'REV', 'LIMIT', skip, most, 'WITHSCORES')
  local ended = #members < 2 * most
  for i = 1, #members, 2 do
    if members[i + 1] ~= from or last == '' or members[i] < last then
      if #letters == wanted then return {died, id, letters} end
      id, died = members[i], members[i + 1]
      local letter = read(id, died)
      if reason == '' or string.find(letter[4][4], reason, 1, true) then letters[#letters + 1] = letter end
    end
  end
  if ended then return {'', '', letters} end
  skip = skip + most
until id ~= ''
return {died, id, letters}

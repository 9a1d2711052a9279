-- Lists the open windows of all keys. The key whose last event came first is the first.
-- ARGV 7 score in idle, 8 end and 9 key of the last window that is known, 10 its name in
--      open:<key> ('' '' '' '': none), 11 how many are wanted
-- Reply {1 if there are more, then {score, end, key, name, events} for each}. An empty name stands
--      for a key that has no open window.
local at, stop, key, name, wanted = ARGV[7], ARGV[8], ARGV[9], ARGV[10], tonumber(ARGV[11])
local MAX_BYTES = 1048576
local reply, room, bytes = {0}, wanted, MAX_BYTES

-- list appends the windows of a key after the cursor, or all.
local function list(score, of, from, after)
  local readable = callOr(false, 'ZCARD', openKey(of)) -- Audit names a key of another type
  local nextName = readable and inOrder('open', of, function(k) return from and rankAfter(k, from, after) or 0 end)
  local listed = from
  while nextName and room > 0 and bytes > 0 do
    local member, score2 = nextName()
    if not member then break end
    local window = member .. ' ' .. of
    local info = readInfo(window, 'n', 'split')
    reply[#reply + 1] = {score, score2, of, member, number(info[1]) or countEvents(window, info[2])}
    listed, room, bytes = true, room - 1, bytes - #window
  end
  if not listed then
    reply[#reply + 1] = {score, '-inf', of, '', 0}
    room = room - 1
  end
  if nextName and nextName() then reply[1] = 1 end
end

if at ~= '' then
  -- A key that received events since then is listed later, with all its windows.
  local score = scoreOf('idle', '', key)
  if score and tonumber(score) == tonumber(at) then list(score, key, stop, name) end
end
local nextKey = inOrder('idle', '', function(k) return at ~= '' and rankAfter(k, at, key) or 0 end)
while room > 0 and bytes > 0 and reply[1] == 0 do
  local of, score = nextKey()
  if not of then return reply end
  list(score, of)
end
if nextKey() then reply[1] = 1 end
return reply

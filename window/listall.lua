-- Lists the open windows of all keys. The key whose last event came first is the first.
-- ARGV 7 score in idle, 8 end and 9 key of the last window that is known, 10 its name in
--      open:<key> ('' '' '' '': none), 11 how many are wanted
-- Reply {1 if there are more, then {score, end, key, name, events} for each}. An empty name stands
--      for a key that has no open window.
local at, stop, key, name, wanted = ARGV[7], ARGV[8], ARGV[9], ARGV[10], tonumber(ARGV[11])
local MAX_BYTES = 1048576
local reply, room = {0}, wanted

-- list appends the windows of a key after the cursor, or all.
local function list(score, of, from, after)
  local total, rank, page = redis.pcall('ZCARD', openKey(of)), 0, {}
  if isWrongType(total) then total = 0 end -- Audit names it
  if type(total) == 'table' then error(total.err, 0) end
  if from and total > 0 then rank = rankAfter(openKey(of), from, after) end
  readPage(openKey(of), rank, total, room, MAX_BYTES, page)
  for i = 1, #page, 2 do
    local window = page[i + 1] .. ' ' .. of
    local info = readInfo(window, 'n', 'split')
    reply[#reply + 1] = {score, page[i], of, page[i + 1], number(info[1]) or countEvents(window, info[2])}
  end
  if #page == 0 and not from then
    reply[#reply + 1] = {score, '-inf', of, '', 0}
    room = room - 1
  end
  room = room - #page / 2
  if rank + #page / 2 < total then reply[1] = 1 end
end

local rank = 0
if at ~= '' then
  -- A key that received events since then is listed later, with all its windows.
  local score = redis.call('ZSCORE', IDLE, key)
  if score and tonumber(score) == tonumber(at) then list(score, key, stop, name) end
  rank = rankAfter(IDLE, at, key)
end
while room > 0 and reply[1] == 0 do
  local keys = redis.call('ZRANGE', IDLE, rank, rank + room - 1, 'WITHSCORES')
  if #keys == 0 then return reply end
  for i = 1, #keys, 2 do
    if room > 0 and reply[1] == 0 then
      list(keys[i + 1], keys[i])
      rank = rank + 1
    end
  end
end
if redis.call('ZCARD', IDLE) > rank then reply[1] = 1 end
return reply

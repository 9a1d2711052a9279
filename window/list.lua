-- Lists the open windows of a key. ARGV 7 key, 8 end of the last one known (ms), 9 how many
-- Reply {window, events} for each, by its end. Those that end with the last one come too.
local key, after, wanted, reply = ARGV[7], ARGV[8], tonumber(ARGV[9]), {}
local nextName = inOrder('open', key, function(k) return call('ZCOUNT', k, '-inf', after) end)
local listed, last = 0, nil
while true do
  local name, stop = nextName()
  if not name or listed >= wanted and stop ~= last then return reply end
  listed, last = listed + 1, stop
  local window = name .. ' ' .. key
  if parts(window) then
    local info = readInfo(window, 'n')
    reply[#reply + 1] = {window, number(info[1]) or 0}
  end
end

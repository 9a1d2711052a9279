-- Names those of the commands in ARGV that the server does not have or the user may not run.
-- Replies 1 if there are none, or no way to find out.
local hasCheck, check = pcall(function() return redis.acl_check_cmd end)
if not hasCheck or not check then return 1 end
local unknown, forbidden = {}, {}
local key = KEYS[1] -- without its keys, a command makes Valkey crash: see rights.lua
local arguments = {MEMORY = {'USAGE', key}, ZUNIONSTORE = {key, '1', key}, PUBLISH = {}}
for _, command in ipairs(ARGV) do
  local exists, may = pcall(check, command, unpack(arguments[command] or {key, key}))
  if not exists then
    unknown[#unknown + 1] = '\'' .. command .. '\''
  elseif not may then
    forbidden[#forbidden + 1] = '\'' .. command .. '\''
  end
end
if #forbidden > 0 then return redis.error_reply('NOPERM the user may not run ' .. table.concat(forbidden, ', ') .. ': the script needs it') end
if #unknown > 0 then return redis.error_reply('ERR unknown command ' .. table.concat(unknown, ', ') .. ': the script needs it') end
return 1

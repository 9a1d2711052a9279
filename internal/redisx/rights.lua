-- rightsCheck is the server's own check of a command. An emulation has none.
local hasCheck, rightsCheck = pcall(function() return redis.acl_check_cmd end)

-- mayRun asks the server whether the user may run a command on the first key of the script, which
-- it may write. Given a command without its keys, a server reads past the arguments, and Valkey
-- crashes.
local function mayRun(command, subcommand)
  local key = KEYS[1]
  if subcommand then return pcall(rightsCheck, command, subcommand, key) end
  if command == 'ZUNIONSTORE' then return pcall(rightsCheck, command, key, '1', key) end
  return pcall(rightsCheck, command, key, key)
end

-- needs ends the script if the user may not run one of the commands. A script has no rollback, so
-- it calls this before its first write. Each is a command, or one and a subcommand. An emulation
-- cannot tell, and goes on.
local function needs(...)
  if not hasCheck or not rightsCheck then return end
  for _, command in ipairs({...}) do
    local exists, may = mayRun(command)
    if not exists then -- also one with its subcommand
      local first, second = string.match(command, '^(%S+) (%S+)$')
      if first then exists, may = mayRun(first, second) end
    end
    if not exists then error({err = 'ERR unknown command \'' .. command .. '\': the script needs it'}) end
    if not may then error({err = 'NOPERM the user may not run \'' .. command .. '\': the script needs it'}) end
  end
end

-- needsKey does the same for a command on a key, which the user may be allowed to read only.
local function needsKey(key, ...)
  if not hasCheck or not rightsCheck then return end
  local exists, may = pcall(rightsCheck, ...)
  if exists and not may then error({err = 'NOPERM the user may not run \'' .. ({...})[1] .. '\' on the key ' .. key .. ': the script needs it'}) end
end


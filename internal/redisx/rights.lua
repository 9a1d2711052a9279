-- needs ends the script if the user may not run one of the commands. A script has no rollback, so
-- it calls this before its first write. An emulation cannot tell, and goes on.
local function needs(...)
  local known, check = pcall(function() return redis.acl_check_cmd end)
  if not known or not check then return end
  for _, command in ipairs({...}) do
    local exists, may = pcall(check, command)
    if not exists then error({err = 'ERR unknown command \'' .. command .. '\': the script needs it'}) end
    if not may then error({err = 'NOPERM the user may not run \'' .. command .. '\': the script needs it'}) end
  end
end


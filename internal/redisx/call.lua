-- isWrongType reports whether a reply is the error about a key of another type.
local function isWrongType(reply) return type(reply) == 'table' and reply.err and string.find(reply.err, 'WRONGTYPE', 1, true) end

-- call does what redis.call does, and its error about a key of another type names the key.
local function call(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if isWrongType(reply) then error(reply.err .. ': ' .. key, 0) end
  if type(reply) == 'table' and reply.err then error(reply.err, 0) end
  return reply
end

-- callOr does the same, but a key of another type replies with `otherwise`.
local function callOr(otherwise, command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if isWrongType(reply) then return otherwise end
  if type(reply) == 'table' and reply.err then error(reply.err, 0) end
  return reply
end

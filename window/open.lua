-- Records the configuration of a program that starts. Size 0 is refused while there are windows.
local wanted = tonumber(ARGV[4])
local recorded = size
if wanted == 0 and recorded > 0 then
  for _, key in ipairs({IDLE, DUE, LEASES, DEAD}) do
    if redis.call('EXISTS', key) == 1 then return {0, int(recorded)} end
  end
end
size = wanted
tick()
keepShared()
return {1, int(recorded)}

-- Records the configuration of a program that starts. Size 0 is refused while there are windows.
-- ARGV 7 keep (ms), 8 configuration. Reply {1: recorded, the size before, the configuration before}
local wanted, keep, config = tonumber(ARGV[4]), ARGV[7], ARGV[8]
local recorded = size
if wanted == 0 and recorded > 0 then
  for _, kind in ipairs({'idle', 'due', 'leased', 'dead'}) do
    if not isEmpty(kind, '') then return {0, int(recorded), ''} end
  end
end
size = wanted
tick()
-- A program without a sliding window leaves that of another program as it is.
if tonumber(keep) > 0 then call('HSET', META, 'keep', keep) end
local before = call('HGET', META, 'config') or ''
if before ~= config then call('HSET', META, 'config', config) end
keepShared()
return {1, int(recorded), before}

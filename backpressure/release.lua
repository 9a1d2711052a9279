-- Ends a reservation, in the queue or held. A reservation that has expired is not there any more.
local member = ARGV[15]
local score = call('ZSCORE', HELD, member)
local removed = 0
if score and tonumber(score) > clock and drop(member) then removed = 1 end
if waiting then leaveQueue(member) end
grantWaiting()
finish()
return reply(0, removed)

-- Applies a part of the undos of a batch, before the script that ends it applies the last part.
-- Does nothing when nothing is left of the batch: its undos were applied when it ended.
-- ARGV: prefix, id, four arguments for each undo.
checkLayout(redis.call('HGET', STAT, 'layout'))
if not isLeft(ARGV[2]) then return 0 end
local matches = matchUndo(3, #ARGV)
applyUndo(matches)
return #matches

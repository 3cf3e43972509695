-- Note that a group has done a message, so that nobody gets it again.
-- KEYS[1]  stream that is the log
-- ARGV[1]  group
-- ARGV[2]  id of the message, such as 42-0
-- ARGV[3]  its epoch: after a failover another message may have the id of one that was lost
-- reply    1, or 0 when it was not to be done any more
local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
if entry and not string.find(entry[2][2], '"epoch":"' .. ARGV[3] .. '"', 1, true) then return 0 end
return redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])

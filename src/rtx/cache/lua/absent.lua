-- Remember that there is nothing to fill a value with, if nothing was invalidated meanwhile.
-- KEYS[1]  the value
-- KEYS[2]  its lease
-- ARGV[1]  token of the lease
-- ARGV[2]  milliseconds that the absence is remembered
-- reply    1 remembered | 0 the lease has been lost
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], 'absent', 'PX', ARGV[2])
redis.call('DEL', KEYS[1])
return 1

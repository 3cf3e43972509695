-- Change a value, if it is still what was read.
-- KEYS[1]  the value
-- ARGV[1]  what was read
-- ARGV[2]  the new value
-- ARGV[3]  milliseconds that it lives
-- reply    1 changed | 0 it is another now, or gone
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
